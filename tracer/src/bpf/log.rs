//! What the kernel side logs (aya-log), for `-vv`.

use std::io::{self, Write as _};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

use super::Error;

/// Reads the kernel side's log.
pub(super) struct KernelLog(EbpfLogger<&'static Stderr>);

impl std::fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KernelLog")
    }
}

impl KernelLog {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let logger = EbpfLogger::init_with_logger(ebpf, &Stderr)
            .map_err(|e| Error::Prepare(format!("its log: {e}")))?;
        Ok(Self(logger))
    }

    pub(super) fn print(&mut self) {
        self.0.flush();
    }
}

/// Prints records on stderr.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Without stderr there is nobody left to tell.
        let _ = writeln!(io::stderr(), "pkttrace: kernel side: {}", record.args());
    }

    fn flush(&self) {}
}
