//! The main thread's wait: file descriptors and what to do when they have something.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What a source does when it is readable. It says whether it is to be watched further.
type Handler<'a> = Box<dyn FnMut() -> Watch + 'a>;

/// Whether a source goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watch {
    /// Keep watching.
    Keep,
    /// The source is at its end.
    Drop,
}

/// Sources and their handlers. A source's descriptor must stay open while it is watched.
pub struct EventLoop<'a> {
    epoll: Epoll,
    sources: Vec<Option<(BorrowedFd<'a>, Handler<'a>)>>,
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

    /// Watches `fd`. A regular file, which epoll does not take (EPERM), is always readable;
    /// it is not watched and the error says so.
    pub fn add(
        &mut self,
        fd: BorrowedFd<'a>,
        handler: impl FnMut() -> Watch + 'a,
    ) -> nix::Result<()> {
        let token = self.sources.len() as u64;
        self.epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        self.sources.push(Some((fd, Box::new(handler))));
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
            let Some(source) = self.sources.get_mut(event.data() as usize) else {
                continue;
            };
            let Some((fd, handler)) = source else {
                continue;
            };
            if handler() == Watch::Drop {
                self.epoll.delete(*fd)?;
                *source = None;
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
    fn runs_the_handler_of_what_is_readable_until_it_drops() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let count = Cell::new(0);
        let mut events = EventLoop::new().unwrap();
        nix::unistd::write(&write, b"x").unwrap();
        events
            .add(read.as_fd(), || {
                count.set(count.get() + 1);
                if count.get() < 2 {
                    Watch::Keep
                } else {
                    Watch::Drop
                }
            })
            .unwrap();
        events.turn().unwrap();
        events.turn().unwrap();
        assert_eq!(count.get(), 2);
        assert!(events.sources[0].is_none());
    }
}
