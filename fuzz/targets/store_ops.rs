//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::store_ops`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(store_ops);
