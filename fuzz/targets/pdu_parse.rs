//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::pdu_parse`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(pdu_parse);
