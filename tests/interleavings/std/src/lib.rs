//! `std`, with every lock, condition, channel, atomic and thread one that shuttle schedules.

pub use std::*;

pub mod sync {
    //! What threads meet in. An `Arc` only counts.
    pub use shuttle::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
    pub use std::sync::*;

    pub mod atomic {
        //! Each operation is a moment at which another thread may go on.
        pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
        pub use std::sync::atomic::*;
    }
}

pub mod thread {
    //! Threads that take turns.
    pub use shuttle::thread::{Builder, JoinHandle, spawn, yield_now};
    pub use std::thread::*;
}
