//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::send_join_response`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(send_join_response);
