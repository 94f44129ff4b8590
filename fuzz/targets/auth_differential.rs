//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::auth_differential`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(auth_differential);
