//! Work on memory in pieces, by a few threads at once.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Threads at the most: a host's memory is no faster for more.
const MOST_THREADS: u64 = 8;
/// A thread for each of so many bytes: less is done before a thread has started.
const WORTH_A_THREAD: u64 = 256 << 20;

/// How many threads are to work on so many bytes.
pub fn threads_for(bytes: u64) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let worth = (bytes / WORTH_A_THREAD).clamp(1, MOST_THREADS);
    processors.min(worth as usize)
}

/// Something of a size.
pub trait Piece: Sync {
    /// Its bytes.
    fn len(&self) -> u64;
}

/// Does `work` on every piece, in about their order, with so many threads, of which the
/// calling one is the first. It tells `progress` the bytes that are done, now and then. After
/// a failure no further piece is begun, and the first is returned. No thread is left.
pub fn work_off<P: Piece, E: Send>(
    pieces: &[P],
    threads: usize,
    work: impl Fn(&P) -> Result<(), E> + Sync,
    progress: impl FnMut(u64),
) -> Result<(), E> {
    let queue = Queue {
        pieces,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        failure: Mutex::new(None),
    };
    let (queue, work) = (&queue, &work);
    thread::scope(|scope| {
        for _ in 1..threads {
            let helper = thread::Builder::new().name("memory".into());
            // Without help it takes longer.
            if let Err(error) = helper.spawn_scoped(scope, move || queue.help(work, |_| ())) {
                tracing::debug!(%error, "one thread less");
            }
        }
        queue.help(work, progress);
    });
    let failure = queue.failure.lock();
    match failure.unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

struct Queue<'a, P, E> {
    pieces: &'a [P],
    /// Index of the piece to be taken next.
    next: AtomicUsize,
    /// Bytes.
    done: AtomicU64,
    failure: Mutex<Option<E>>,
}

impl<P: Piece, E> Queue<'_, P, E> {
    /// Takes one piece after the other, until there is none.
    fn help(&self, work: &impl Fn(&P) -> Result<(), E>, mut progress: impl FnMut(u64)) {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            match work(piece) {
                Ok(()) => {
                    let len = piece.len();
                    progress(self.done.fetch_add(len, Ordering::Relaxed) + len);
                }
                Err(error) => self.stop(error),
            }
        }
    }

    fn stop(&self, error: E) {
        self.next.store(self.pieces.len(), Ordering::Relaxed);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread::ThreadId;

    impl Piece for u64 {
        fn len(&self) -> u64 {
            *self
        }
    }

    fn fine(_: &u64) -> Result<(), ()> {
        Ok(())
    }

    #[test]
    fn every_piece_is_worked_on_once_by_all_threads() {
        let pieces: Vec<u64> = (1..=100).collect();
        let seen = Mutex::new(Vec::<(u64, ThreadId)>::new());
        // The first three pieces are at work at once, or this would wait for ever.
        let together = Barrier::new(3);
        let mut told = Vec::new();
        let work = |piece: &u64| {
            if *piece <= 3 {
                together.wait();
            }
            let mut seen = seen.lock().unwrap();
            seen.push((*piece, thread::current().id()));
            Ok::<(), ()>(())
        };
        work_off(&pieces, 3, work, |done| told.push(done)).unwrap();
        let mut seen = seen.into_inner().unwrap();
        let mut threads: Vec<_> = seen.iter().map(|(_, thread)| *thread).collect();
        threads.sort_by_key(|thread| format!("{thread:?}"));
        threads.dedup();
        assert_eq!(threads.len(), 3);
        seen.sort_by_key(|(piece, _)| *piece);
        assert!(seen.into_iter().map(|(piece, _)| piece).eq(1..=100));
        assert!(told.is_sorted() && told.last() <= Some(&5050), "{told:?}");
    }

    #[test]
    fn one_thread_does_all_in_order_and_tells_of_each() {
        let mut told = Vec::new();
        work_off(&[10, 20, 5], 1, fine, |done| told.push(done)).unwrap();
        assert_eq!(told, [10, 30, 35]);
        work_off(&[], 1, fine, |_| panic!("nothing to tell of")).unwrap();
    }

    #[test]
    fn a_failure_stops_the_rest() {
        let pieces: Vec<u64> = (0..10_000).collect();
        for threads in [1, 4] {
            let begun = AtomicUsize::new(0);
            let work = |piece: &u64| {
                begun.fetch_add(1, Ordering::Relaxed);
                // Those that are begun at the same time end as well.
                thread::sleep(std::time::Duration::from_millis(1));
                if *piece == 5 { Err(*piece) } else { Ok(()) }
            };
            assert_eq!(work_off(&pieces, threads, work, |_| ()), Err(5));
            let begun = begun.into_inner();
            assert!((6..100).contains(&begun), "{begun} with {threads}");
        }
    }

    #[test]
    fn the_first_failure_is_the_one_that_is_told() {
        let together = Barrier::new(2);
        let work = |piece: &u64| {
            together.wait();
            Err::<(), u64>(*piece)
        };
        let error = work_off(&[1, 2, 3, 4], 2, work, |_| ()).unwrap_err();
        assert!(error == 1 || error == 2, "{error}");
    }

    #[test]
    fn little_memory_takes_one_thread_and_much_no_more_than_eight() {
        assert_eq!(threads_for(0), 1);
        assert_eq!(threads_for(511 << 20), 1);
        let processors = thread::available_parallelism().unwrap().get();
        assert_eq!(threads_for(1 << 40), processors.min(8));
    }
}
