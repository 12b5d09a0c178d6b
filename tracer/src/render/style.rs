//! Colour and width.

use super::text::escape;

/// How text output looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Use ANSI colours.
    pub has_color: bool,
    /// Columns of the terminal; `None` when the output is not one: nothing is wrapped then.
    pub width: Option<usize>,
    /// Seconds that clocks here are ahead of UTC.
    pub utc_offset_s: i32,
}

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Plain,
    /// The journey's heading.
    Heading,
    /// Arrived.
    Good,
    /// Needs a look.
    Warning,
    /// Dropped.
    Bad,
    /// A translation or a tunnel.
    Change,
    /// Times and other side matters.
    Faint,
}

impl Style {
    /// `text` without control characters, in the colour of its role.
    pub(crate) fn paint(&self, role: Role, text: &str) -> String {
        let text = escape(text);
        let code = match role {
            Role::Plain => return text,
            _ if !self.has_color || text.is_empty() => return text,
            Role::Heading => "1",
            Role::Good => "32",
            Role::Warning => "33",
            Role::Bad => "1;31",
            Role::Change => "36",
            Role::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// The role of a fate.
pub(super) fn of_fate(fate: &str) -> Role {
    match fate {
        "delivered" | "left-node" => Role::Good,
        "dropped" => Role::Bad,
        "in-flight" => Role::Warning,
        _ => Role::Faint,
    }
}
