//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::wire_decode`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(wire_decode);
