//! What the packer does next: one job after the other, what is urgent before the rest.

use std::sync::mpsc::{Receiver, SendError, Sender, channel};

use crate::packer::Job;

/// Where jobs are handed in.
#[derive(Debug)]
pub(crate) struct Desk {
    urgent: Sender<Job>,
    /// `None` only wakes whoever waits for a job.
    all: Sender<Option<Job>>,
}

/// Where they are taken.
#[derive(Debug)]
pub(crate) struct Jobs {
    urgent: Receiver<Job>,
    all: Receiver<Option<Job>>,
}

/// The two ends.
pub(crate) fn jobs() -> (Desk, Jobs) {
    let ((urgent, urgent_taken), (all, all_taken)) = (channel(), channel());
    (Desk { urgent, all }, Jobs { urgent: urgent_taken, all: all_taken })
}

/// Nobody takes jobs any more.
pub(crate) struct Closed;

impl<T> From<SendError<T>> for Closed {
    fn from(_: SendError<T>) -> Self {
        Self
    }
}

impl Desk {
    pub(crate) fn push(&self, job: Job) -> Result<(), Closed> {
        Ok(self.all.send(Some(job))?)
    }

    /// Hands in what the target waits for with things half done.
    pub(crate) fn push_urgent(&self, job: Job) -> Result<(), Closed> {
        self.urgent.send(job)?;
        Ok(self.all.send(None)?)
    }
}

impl Jobs {
    /// The next job; none when there will be no more.
    pub(crate) fn next(&self) -> Option<Job> {
        loop {
            if let Ok(job) = self.urgent.try_recv() {
                return Some(job);
            }
            match self.all.recv() {
                Ok(Some(job)) => return Some(job),
                Ok(None) => continue,
                Err(_) => return self.urgent.try_recv().ok(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blat_target::message::ToTarget;

    #[test]
    fn what_is_urgent_comes_first() {
        let (desk, jobs) = jobs();
        let say = |sent| Job::Say(ToTarget::Done { sent });
        assert!(desk.push(say(1)).is_ok() && desk.push(say(2)).is_ok() && desk.push_urgent(say(0)).is_ok());
        drop(desk);
        let order = std::iter::from_fn(|| jobs.next());
        let order: Vec<_> = order.map(|job| format!("{job:?}")).collect();
        assert_eq!(order, [0, 1, 2].map(|sent| format!("{:?}", say(sent))));
    }
}
