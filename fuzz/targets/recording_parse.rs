//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::recording_parse`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(recording_parse);
