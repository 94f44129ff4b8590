//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::state_group_ops`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(state_group_ops);
