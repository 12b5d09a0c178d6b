//! pkttrace: follows packets through a container node's network, hop by hop.

pub mod cli;
pub mod event;
pub mod journey;
pub mod lab;
pub mod net;
pub mod render;
pub mod report;
