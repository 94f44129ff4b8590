//! Gives libFuzzer's bytes, or files, to [`gibbous_fuzz::resync_answers`].

#![cfg_attr(fuzzing, no_main)]

gibbous_fuzz::target!(resync_answers);
