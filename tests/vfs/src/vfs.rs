//! SQLite's interface to a disk (`sqlite3_vfs`), put in front of the system's own.
//!
//! Each file of ours stands before the real one in the memory that SQLite gives for a file: the method table that SQLite
//! sees is ours, and every method asks the rules, writes down what it does, and calls the real one. A change is recorded
//! before it is done, so that a kill leaves nothing done that is not recorded; the end of a sync is recorded when it has
//! ended, and before SQLite hears of it.
//!
//! Whether a directory was synced cannot be seen at this interface; the system's VFS does it by itself, after the first
//! sync of a new log or journal. It opens the directory for that through a call that can be replaced, which tells.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{size_of, transmute};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::ffi::{
    self, sqlite3_file, sqlite3_filename, sqlite3_int64, sqlite3_io_methods, sqlite3_syscall_ptr, sqlite3_vfs,
};

use crate::faults::{Call, Fault, Faults, Kind};
use crate::tape::{Tape, What};

/// What every call needs; set once, before SQLite can call.
struct Disk {
    real: *mut sqlite3_vfs,
    open_directory: unsafe extern "C" fn(*const c_char, *mut c_int) -> c_int,
    tape: Option<Tape>,
    faults: Option<Faults>,
    syncs: AtomicU64,
}

// SAFETY: `real` points to the system's VFS, which lives as long as the process, is never changed after this, and may be
// used by any thread: SQLite itself does.
unsafe impl Send for Disk {}
// SAFETY: as above.
unsafe impl Sync for Disk {}

static DISK: OnceLock<Disk> = OnceLock::new();

thread_local! {
    /// Whether the system's VFS opened a directory on this thread, which it does only to sync it.
    static DIRECTORY: Cell<bool> = const { Cell::new(false) };
}

fn disk() -> &'static Disk {
    DISK.get().expect("registered before SQLite can call it")
}

/// Puts the disk under every connection that this process opens from now on. Once in a process.
pub fn register(tape: Option<Tape>, faults: Option<Faults>) {
    // SAFETY: SQLite may be initialized at any time, and then finds its default VFS, which lives as long as the process.
    let real = unsafe {
        assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
        ffi::sqlite3_vfs_find(ptr::null())
    };
    assert!(!real.is_null(), "SQLite has no VFS of its own");
    // SAFETY: it is a valid VFS, and nobody changes it now; the name is a C string; the system's VFS has had these calls
    // since version 3. A pointer to `openDirectory` is what that name stands for, in this shape.
    let (system, open_directory) = unsafe {
        let system = *real;
        assert!(system.iVersion >= 3, "the system's VFS lets no call be replaced");
        let get = system.xGetSystemCall.expect("since version 3");
        let call = get(real, c"openDirectory".as_ptr()).expect("the call by which directories are synced");
        (system, transmute::<unsafe extern "C" fn(), unsafe extern "C" fn(*const c_char, *mut c_int) -> c_int>(call))
    };
    let fresh = DISK.set(Disk { real, open_directory, tape, faults, syncs: AtomicU64::new(0) });
    assert!(fresh.is_ok(), "registered twice");
    // Everything that is not of a file (sleep, randomness, time) stays the system's; it finds what it needs in the copy.
    let ours = Box::leak(Box::new(sqlite3_vfs {
        szOsFile: size_of::<File>() as c_int + system.szOsFile,
        pNext: ptr::null_mut(),
        zName: c"recording".as_ptr(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        ..system
    }));
    // SAFETY: the call has the shape that the name stands for, and the VFS lives for ever with all that it points to.
    unsafe {
        let call: sqlite3_syscall_ptr = Some(transmute::<
            unsafe extern "C" fn(*const c_char, *mut c_int) -> c_int,
            unsafe extern "C" fn(),
        >(directory_opened));
        let set = system.xSetSystemCall.expect("since version 3");
        assert_eq!(set(real, c"openDirectory".as_ptr(), call), ffi::SQLITE_OK);
        assert_eq!(ffi::sqlite3_vfs_register(ours, 1), ffi::SQLITE_OK);
    }
}

/// A file of ours; the system's follows it in memory.
#[repr(C)]
struct File {
    /// What SQLite sees; has to be first.
    base: sqlite3_file,
    /// The file's name without the directory; none for a temporary one, which is not of the store.
    name: Option<Box<str>>,
    kind: Kind,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};

/// Asks the rules about a call: `Some` is the answer in its stead. `wrong` is SQLite's code for the call's I/O error.
fn judged(call: Call, kind: Kind, wrong: c_int) -> Option<c_int> {
    match fault(call, kind)? {
        Fault::IoErr => Some(wrong),
        Fault::Full | Fault::Short => Some(ffi::SQLITE_FULL),
        Fault::Skip => Some(ffi::SQLITE_OK),
        Fault::Slow(_) => None,
    }
}

/// The fault of a call; a slow one has been slow when this returns.
fn fault(call: Call, kind: Kind) -> Option<Fault> {
    let fault = disk().faults.as_ref()?.of(call, kind)?;
    if let Fault::Slow(time) = fault {
        std::thread::sleep(time);
    }
    Some(fault)
}

fn record(what: What, name: Option<&str>, at: u64, bytes: &[u8]) {
    if let (Some(tape), Some(name)) = (&disk().tape, name) {
        tape.put(what, name, at, bytes);
    }
}

/// The name without the directory.
///
/// # Safety
/// `path` is null or a C string.
unsafe fn name_of(path: *const c_char) -> Option<Box<str>> {
    if path.is_null() {
        return None;
    }
    // SAFETY: as this function demands.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
    path.rsplit('/').next().map(Box::from)
}

/// Ours, and the system's behind it.
///
/// # Safety
/// `file` was opened by [`open`] and is not closed yet.
unsafe fn both<'f>(file: *mut sqlite3_file) -> (&'f File, *mut sqlite3_file) {
    // SAFETY: `open` has put a `File` there, and the system's right behind; SQLite changes neither.
    unsafe { (&*file.cast::<File>(), file.cast::<File>().add(1).cast()) }
}

/// Calls the method of the system's file.
macro_rules! real {
    ($file:expr, $method:ident $(, $arg:expr)*) => {{
        let real: *mut sqlite3_file = $file;
        // SAFETY: `open` left the system's file open there, with its table of methods, which has all of version 3.
        unsafe { ((*(*real).pMethods).$method.expect("the system's VFS has version 3"))(real $(, $arg)*) }
    }};
}

unsafe extern "C" fn directory_opened(path: *const c_char, opened: *mut c_int) -> c_int {
    // SAFETY: handed on as it came.
    let code = unsafe { (disk().open_directory)(path, opened) };
    DIRECTORY.set(code == ffi::SQLITE_OK);
    code
}

/// Records that the directory was synced, if it was since the last call.
fn directory_synced(name: Option<&str>) {
    if DIRECTORY.take() {
        record(What::DirectorySynced, name, 0, &[]);
    }
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    path: sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite hands in a C string or null.
    let name = unsafe { name_of(path) };
    let kind = Kind::of(name.as_deref().unwrap_or_default());
    // SAFETY: SQLite has taken `szOsFile` bytes for this file, aligned for both. Without methods it is not closed.
    let real = unsafe {
        (*file).pMethods = ptr::null();
        file.cast::<File>().add(1).cast::<sqlite3_file>()
    };
    if judged(Call::Open, kind, ffi::SQLITE_CANTOPEN).is_some() {
        return ffi::SQLITE_CANTOPEN;
    }
    let system = disk().real;
    // SAFETY: the system's VFS gets its own memory for the file, and the rest as it came.
    let code = unsafe { ((*system).xOpen.expect("every VFS opens"))(system, path, real, flags, flags_out) };
    if code == ffi::SQLITE_OK {
        record(What::Opened, name.as_deref(), 0, &[]);
        // SAFETY: the memory is ours, and holds nothing that would have to be dropped.
        unsafe { ptr::write(file.cast::<File>(), File { base: sqlite3_file { pMethods: &METHODS }, name, kind }) };
    }
    code
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, path: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: SQLite hands in a C string.
    let name = unsafe { name_of(path) };
    let kind = Kind::of(name.as_deref().unwrap_or_default());
    if let Some(code) = judged(Call::Delete, kind, ffi::SQLITE_IOERR_DELETE) {
        return code;
    }
    DIRECTORY.set(false);
    record(What::Deleted, name.as_deref(), 0, &[]);
    let system = disk().real;
    // SAFETY: handed on as it came.
    let code = unsafe { ((*system).xDelete.expect("every VFS deletes"))(system, path, sync_directory) };
    if code == ffi::SQLITE_OK {
        directory_synced(name.as_deref());
    }
    code
}

unsafe extern "C" fn access(_: *mut sqlite3_vfs, path: *const c_char, flags: c_int, found: *mut c_int) -> c_int {
    // SAFETY: SQLite hands in a C string.
    let name = unsafe { name_of(path) };
    let kind = Kind::of(name.as_deref().unwrap_or_default());
    if let Some(code) = judged(Call::Access, kind, ffi::SQLITE_IOERR_ACCESS).filter(|code| *code != ffi::SQLITE_OK) {
        return code;
    }
    let system = disk().real;
    // SAFETY: handed on as it came.
    unsafe { ((*system).xAccess.expect("every VFS looks"))(system, path, flags, found) }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite calls this with an open file.
    let code = real!(unsafe { both(file) }.1, xClose);
    // SAFETY: SQLite closes a file once, and does not use it afterwards.
    unsafe {
        ptr::drop_in_place(file.cast::<File>());
        (*file).pMethods = ptr::null();
    }
    code
}

unsafe extern "C" fn read(file: *mut sqlite3_file, into: *mut c_void, count: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls this with an open file.
    let (ours, real) = unsafe { both(file) };
    match fault(Call::Read, ours.kind) {
        Some(Fault::IoErr) => ffi::SQLITE_IOERR_READ,
        _ => real!(real, xRead, into, count, at),
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, count: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls this with an open file.
    let (ours, real) = unsafe { both(file) };
    let (code, done) = match fault(Call::Write, ours.kind) {
        Some(Fault::IoErr) => return ffi::SQLITE_IOERR_WRITE,
        Some(Fault::Full) => return ffi::SQLITE_FULL,
        Some(Fault::Skip) => return ffi::SQLITE_OK,
        Some(Fault::Short) => (ffi::SQLITE_FULL, count / 2),
        Some(Fault::Slow(_)) | None => (ffi::SQLITE_OK, count),
    };
    // SAFETY: SQLite hands in that many bytes, and more.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), done as usize) };
    record(What::Wrote, ours.name.as_deref(), at as u64, bytes);
    match real!(real, xWrite, from, done, at) {
        ffi::SQLITE_OK => code,
        wrong => wrong,
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, to: sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls this with an open file.
    let (ours, real) = unsafe { both(file) };
    if let Some(code) = judged(Call::Truncate, ours.kind, ffi::SQLITE_IOERR_TRUNCATE) {
        return code;
    }
    record(What::Truncated, ours.name.as_deref(), to as u64, &[]);
    real!(real, xTruncate, to)
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: SQLite calls this with an open file.
    let (ours, real) = unsafe { both(file) };
    if let Some(code) = judged(Call::Sync, ours.kind, ffi::SQLITE_IOERR_FSYNC) {
        if code != ffi::SQLITE_OK {
            record(What::SyncFailed, ours.name.as_deref(), 0, &[]);
        }
        return code;
    }
    let name = ours.name.as_deref();
    // Of one process, with its number in front: a tape may hold several.
    let number = u64::from(std::process::id()) << 32 | disk().syncs.fetch_add(1, Ordering::Relaxed);
    DIRECTORY.set(false);
    record(What::SyncBegan, name, number, &[]);
    let code = real!(real, xSync, flags);
    if code == ffi::SQLITE_OK {
        record(What::Synced, name, number, &[]);
        directory_synced(name);
    }
    code
}

unsafe extern "C" fn size(file: *mut sqlite3_file, bytes: *mut sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls this with an open file.
    let (ours, real) = unsafe { both(file) };
    match fault(Call::Size, ours.kind) {
        Some(Fault::IoErr) => ffi::SQLITE_IOERR_FSTAT,
        _ => real!(real, xFileSize, bytes),
    }
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite calls this with an open file; so with each of the following.
    real!(unsafe { both(file) }.1, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, held: *mut c_int) -> c_int {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xCheckReservedLock, held)
}

unsafe extern "C" fn control(file: *mut sqlite3_file, what: c_int, arg: *mut c_void) -> c_int {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xFileControl, what, arg)
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xSectorSize)
}

unsafe extern "C" fn characteristics(file: *mut sqlite3_file) -> c_int {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xDeviceCharacteristics)
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    page: c_int,
    bytes: c_int,
    extend: c_int,
    mapped: *mut *mut c_void,
) -> c_int {
    // SAFETY: as for `lock`.
    let (ours, real) = unsafe { both(file) };
    match fault(Call::Shm, ours.kind) {
        Some(Fault::IoErr) => ffi::SQLITE_IOERR_SHMMAP,
        Some(Fault::Full) => ffi::SQLITE_IOERR_SHMSIZE,
        _ => real!(real, xShmMap, page, bytes, extend, mapped),
    }
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xShmLock, offset, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xShmBarrier)
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xShmUnmap, delete)
}

unsafe extern "C" fn fetch(file: *mut sqlite3_file, at: sqlite3_int64, count: c_int, page: *mut *mut c_void) -> c_int {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xFetch, at, count, page)
}

unsafe extern "C" fn unfetch(file: *mut sqlite3_file, at: sqlite3_int64, page: *mut c_void) -> c_int {
    // SAFETY: as for `lock`.
    real!(unsafe { both(file) }.1, xUnfetch, at, page)
}
