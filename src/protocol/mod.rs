//! What is spoken on the wire: frames to and from clients, frames and answers of workers, error codes.
//!
//! Everything here is pure: text in, values out, and back. `data` is carried as the text it came as.

pub mod client;
pub mod code;
pub mod data;
pub mod hello;
pub mod json;
pub mod parts;
pub mod publish;
