//! Entries in libcni's cache.

use std::path::{Path, PathBuf};

use serde_json::Value;

const CACHE: &str = "/var/lib/cni/results";

/// A file in libcni's cache, and the directories that had to be made for it.
pub struct CacheFile {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl CacheFile {
    /// Writes an entry under this name.
    pub fn new(name: &str, entry: &Value) -> Self {
        let dir = Path::new(CACHE);
        let missing = dir.ancestors().take_while(|dir| !dir.exists());
        let file = Self { made: missing.map(PathBuf::from).collect(), path: dir.join(name) };
        std::fs::create_dir_all(dir).expect("the cache's directory");
        std::fs::write(&file.path, entry.to_string()).expect("the cache's file");
        file
    }
}

impl Drop for CacheFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        for dir in &self.made {
            // Fails where somebody else has put something, rightly.
            let _ = std::fs::remove_dir(dir);
        }
    }
}
