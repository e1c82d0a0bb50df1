//! A peer on a thread of its own, so that tests with and without a runtime can use it.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// It serves until it is ended.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// On a free port, by what `serve` makes of those who connect.
    pub(super) fn by<F: Future<Output = ()>>(serve: impl FnOnce(TcpListener) -> F + Send + 'static) -> Served {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! { () = serve(listener) => {} _ = stopped => {} }
            });
        });
        Served { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Ends it. Unless the test has failed already, it fails where the peer itself did.
    pub(super) fn end(&mut self) {
        drop(self.stop.take());
        let served = self.thread.take().map_or(Ok(()), JoinHandle::join);
        if !std::thread::panicking() {
            served.expect("the fake peer itself does not fail");
        }
    }
}
