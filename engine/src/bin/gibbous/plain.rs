//! Text of other servers, made harmless for where it is shown: a terminal, XML and HTML, Graphviz, JSON.

use std::fmt::{Arguments, Write as _};

/// Text that grows line by line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    /// Adds a line.
    pub(crate) fn line(&mut self, line: Arguments<'_>) {
        self.put(line);
        self.0.push('\n');
    }

    /// Adds a piece of a line.
    pub(crate) fn put(&mut self, piece: Arguments<'_>) {
        // A string takes whatever it is given.
        let _ = self.0.write_fmt(piece);
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// Tells whether a character is not seen, or changes how others are seen: what an event type or an ID can hide behind.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Returns text for a terminal: what is not seen is told by its number.
pub(crate) fn plain(text: &str) -> String {
    let mut shown = Text::default();
    for c in text.chars() {
        match c {
            c if is_unseen(c) => shown.put(format_args!("\\u{{{:x}}}", u32::from(c))),
            c => shown.0.push(c),
        }
    }
    shown.0
}

/// Returns text for XML and HTML, in elements and in quoted attributes.
pub(crate) fn xml(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            c => shown.push(c),
        }
    }
    shown
}

/// Returns text for a quoted string of Graphviz, which reads escapes and HTML entities in labels.
pub(crate) fn dot(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '\\' => shown.push_str("\\\\"),
            '"' => shown.push_str("\\\""),
            '&' => shown.push_str("&amp;"),
            c => shown.push(c),
        }
    }
    shown
}

/// Returns JSON as it is, but with escapes for what is not seen: it can only stand in strings.
pub(crate) fn json(text: &str) -> String {
    let mut shown = Text::default();
    for c in text.chars() {
        match c {
            c if c != '\n' && is_unseen(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| shown.put(format_args!("\\u{unit:04x}")));
            }
            c => shown.0.push(c),
        }
    }
    shown.0
}

/// Returns text of at most so many characters; the rest is told by an ellipsis.
pub(crate) fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_does_not_reach_the_terminal_as_commands() {
        assert_eq!(plain("a\u{1b}[2Jb\u{202e}c\nd é"), "a\\u{1b}[2Jb\\u{202e}c\\u{a}d é");
    }

    #[test]
    fn text_of_others_stays_text_in_xml_and_graphviz() {
        assert_eq!(
            xml("</text><script a='1' b=\"2\">&\0"),
            "&lt;/text&gt;&lt;script a=&#39;1&#39; b=&quot;2&quot;&gt;&amp;\\u{0}"
        );
        assert_eq!(dot("\"]; x [label=\"\\N&lt;\n"), "\\\"]; x [label=\\\"\\\\N&amp;lt;\\\\u{a}");
    }

    #[test]
    fn json_with_escapes_is_the_same_value() {
        let value = serde_json::json!({ "\u{7f}\u{202e}": ["\u{e0041}", "line\nline", "é"] });
        let shown = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!shown.chars().any(|c| c != '\n' && is_unseen(c)), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!((cut("ééé", 3), cut("éééé", 3)), ("ééé".to_owned(), "éé…".to_owned()));
    }
}
