//! Output formats. A renderer turns reports into bytes on a writer and knows nothing else.
//!
//! A new format is a file with an `impl Renderer`, its `mod` line and its row in `formats!`.

pub mod diagnosis;
mod json;
mod line;
mod meaning;
mod rows;
mod style;
mod table;
mod text;
mod tree;

use std::io;

pub use meaning::{meaning, meanings, reasons};
pub(crate) use style::Role;
pub use style::Style;
pub use text::escape;
pub(crate) use text::{endpoint, hanging, place};

use crate::report;

/// Writes reports in one format.
pub trait Renderer {
    /// Writes a journey. A renderer may hold it back until [`Renderer::summary`].
    ///
    /// # Errors
    /// The writer's.
    fn journey(&mut self, journey: &report::Journey, out: &mut dyn io::Write) -> io::Result<()>;

    /// Writes what was held back, and the summary where the format has one.
    ///
    /// # Errors
    /// The writer's.
    fn summary(&mut self, summary: &report::Summary, out: &mut dyn io::Write) -> io::Result<()>;
}

/// The list of formats: yields the command line's values and the constructor.
macro_rules! formats {
    ($($(#[$doc:meta])+ $variant:ident => $new:expr),+ $(,)?) => {
        /// An output format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
        pub enum Format {
            $($(#[$doc])+ $variant),+
        }

        impl Format {
            /// Every format.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
        }

        /// The renderer of a format.
        #[must_use]
        pub fn new(format: Format, style: Style) -> Box<dyn Renderer> {
            match format {
                $(Format::$variant => Box::new($new(style))),+
            }
        }
    };
}

formats! {
    /// One timeline per packet.
    Tree => tree::Tree::new,
    /// One line per packet.
    Line => line::Line::new,
    /// A table with one row per packet.
    Table => table::Table::new,
    /// One JSON object per line.
    Json => json::Json::new,
}
