//! A bare hyper server: what durable ingest is measured against.

fn main() {}
