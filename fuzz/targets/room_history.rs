//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::room_history`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(room_history);
