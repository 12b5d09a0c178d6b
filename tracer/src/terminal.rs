//! What the terminal, and the place where it stands, can show.

use std::env;
use std::io::{self, IsTerminal as _};

/// Whether standard output is a terminal that knows ASCII only: by the locale, or a dumb one.
pub(crate) fn is_ascii() -> bool {
    io::stdout().is_terminal() && knows_ascii_only(|name| env::var(name).ok())
}

fn knows_ascii_only(var: impl Fn(&str) -> Option<String>) -> bool {
    if var("TERM").as_deref() == Some("dumb") {
        return true;
    }
    // The first that is set counts. None is what containers have, and says nothing.
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(&var);
    let locale = set.map(|locale| locale.to_lowercase()).find(|locale| !locale.is_empty());
    locale.is_some_and(|locale| !locale.contains("utf-8") && !locale.contains("utf8"))
}

/// Seconds that clocks here are ahead of UTC now.
pub(crate) fn utc_offset_s() -> i32 {
    // SAFETY: a null pointer asks for the value alone.
    let now = unsafe { libc::time(std::ptr::null_mut()) };
    // SAFETY: all zeroes is a valid value of the structure.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid, and the structure is written.
    let done = unsafe { libc::localtime_r(&raw const now, &raw mut local) };
    if done.is_null() { 0 } else { i32::try_from(local.tm_gmtoff).unwrap_or(0) }
}

/// Columns of the terminal that standard output is, if it is one.
pub(crate) fn width() -> Option<usize> {
    size().map(|size| usize::from(size.ws_col)).filter(|n| *n > 0)
}

/// Rows of the terminal that standard output is, if it is one.
pub(crate) fn height() -> Option<usize> {
    size().map(|size| usize::from(size.ws_row)).filter(|n| *n > 0)
}

fn size() -> Option<libc::winsize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes the structure.
    let rc = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (rc == 0).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::knows_ascii_only;

    fn only(vars: &[(&str, &str)]) -> bool {
        knows_ascii_only(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_locale_says_what_the_terminal_knows() {
        assert!(only(&[("LANG", "C")]) && only(&[("LC_ALL", "POSIX"), ("LANG", "en_US.UTF-8")]));
        assert!(only(&[("TERM", "dumb"), ("LANG", "C.UTF-8")]));
        assert!(!only(&[("LANG", "de_DE.utf8")]) && !only(&[]) && !only(&[("LC_ALL", "")]));
        assert!(only(&[("LC_CTYPE", "de_DE.ISO-8859-1"), ("LANG", "C.UTF-8")]));
    }
}
