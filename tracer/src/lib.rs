//! pkttrace: follows packets through a container node's network, hop by hop.

pub mod app;
pub mod bpf;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod event;
pub mod journey;
pub mod kernel;
pub mod lab;
pub mod net;
pub mod render;
pub mod report;
pub mod source;
