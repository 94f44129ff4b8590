//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::resolve_differential`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(resolve_differential);
