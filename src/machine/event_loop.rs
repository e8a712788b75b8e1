//! The main thread's wait: file descriptors and what to do when they have something.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Sources and what each does when it is readable.
pub struct EventLoop<'a> {
    epoll: Epoll,
    /// By token. The borrow keeps the descriptor open while it is watched.
    sources: Vec<(BorrowedFd<'a>, Box<dyn FnMut() + 'a>)>,
}

impl<'a> EventLoop<'a> {
    /// No sources.
    pub fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            epoll,
            sources: Vec::new(),
        })
    }

    /// Watches `fd`. Its handler must take what made it readable.
    pub fn add(&mut self, fd: BorrowedFd<'a>, handler: impl FnMut() + 'a) -> nix::Result<()> {
        let token = self.sources.len() as u64;
        self.epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        self.sources.push((fd, Box::new(handler)));
        Ok(())
    }

    /// Waits for sources and runs their handlers, once.
    pub fn turn(&mut self) -> nix::Result<()> {
        let mut events = [EpollEvent::empty(); 8];
        let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error),
        };
        for event in &events[..ready] {
            if let Some((_, handler)) = self.sources.get_mut(event.data() as usize) {
                handler();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn runs_the_handler_of_what_is_readable_and_no_other() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let (silent, _other) = nix::unistd::pipe().unwrap();
        let count = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        events
            .add(silent.as_fd(), || panic!("nothing was written"))
            .unwrap();
        events
            .add(read.as_fd(), || {
                let mut byte = [0];
                nix::unistd::read(&read, &mut byte).unwrap();
                count.set(count.get() + 1);
            })
            .unwrap();
        nix::unistd::write(&write, b"xy").unwrap();
        events.turn().unwrap();
        events.turn().unwrap();
        assert_eq!(count.get(), 2);
    }
}
