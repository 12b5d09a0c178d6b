//! Output formats. A renderer turns reports into bytes on a writer and knows nothing else.
//!
//! A new format is a file with an `impl Renderer`, its `mod` line and its row in `formats!`.

mod ascii;
pub mod diagnosis;
pub mod drops;
mod fold;
mod json;
pub mod latency;
pub mod latency_html;
mod line;
mod meaning;
mod rows;
mod style;
mod table;
mod text;
mod tree;

use std::io;

pub use ascii::Ascii;
pub use fold::{Group, Spread};
pub use meaning::{meaning, meanings, reasons};
pub(crate) use style::Role;
pub use style::Style;
pub use text::escape;
pub(crate) use text::{duration, endpoint, hanging, place};

use crate::report;

/// Writes reports in one format.
pub trait Renderer {
    /// Writes a journey. A renderer may hold it back until [`Renderer::summary`].
    ///
    /// # Errors
    /// The writer's.
    fn journey(&mut self, journey: &report::Journey, out: &mut dyn io::Write) -> io::Result<()>;

    /// Writes journeys that went the same way.
    ///
    /// # Errors
    /// The writer's.
    fn group(&mut self, group: &Group, out: &mut dyn io::Write) -> io::Result<()> {
        self.journey(&group.first, out)
    }

    /// Time goes on: writes what was held back long enough at `now_ns`, Unix time.
    ///
    /// # Errors
    /// The writer's.
    fn turn(&mut self, now_ns: u64, out: &mut dyn io::Write) -> io::Result<()> {
        let _ = (now_ns, out);
        Ok(())
    }

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

/// The renderer of a format, for a run: packets of one flow that went the same way are told as
/// one, but by formats for programs, and not when each is asked for.
#[must_use]
pub fn of_run(format: Format, style: Style, each: bool) -> Box<dyn Renderer> {
    let inner = new(format, style);
    if each || format == Format::Json { inner } else { Box::new(fold::Fold::new(inner)) }
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
