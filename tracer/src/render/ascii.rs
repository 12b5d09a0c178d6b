//! Output for terminals that know ASCII only.

use std::io::{self, Write};

/// Writes what is given to it with every character that is not ASCII replaced, one for one, so that
/// columns stay where they are.
pub struct Ascii<W>(W);

impl<W: Write> Ascii<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self(inner)
    }
}

impl<W: Write> Write for Ascii<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Text comes in whole characters: formatting writes strings.
        let text = String::from_utf8_lossy(bytes);
        let plain: String = text.chars().map(ascii).collect();
        self.0.write_all(plain.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn ascii(c: char) -> char {
    match c {
        c if c.is_ascii() => c,
        '→' => '>',
        '…' => '~',
        'µ' => 'u',
        '✗' | '×' => 'x',
        '│' | '┆' | '║' => '|',
        '└' => '`',
        '─' | '═' | '┄' | '╌' => '-',
        '·' => '.',
        '┌' | '┐' | '┘' | '├' | '┤' | '┬' | '┴' | '┼' | '╞' | '╡' | '╪' => {
            '+'
        }
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_where_they_are() {
        let mut out = Vec::new();
        write!(Ascii::new(&mut out), "a → b  +1.0 µs │ ✗ drop é").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a > b  +1.0 us | x drop ?");
    }
}
