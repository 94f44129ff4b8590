//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::key_order`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(key_order);
