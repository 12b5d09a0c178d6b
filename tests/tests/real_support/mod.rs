//! Real container software, let loose in namespaces and directories of the test's own.

pub mod cache;
pub mod cni;
pub mod docker;
