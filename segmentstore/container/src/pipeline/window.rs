//! How many frames to have in flight, and how large one should be before it joins others (pure).
//!
//! The number rises while that does not make frames slower, and halves when they take twice as long as
//! when the log was at ease. Frames join others in flight only at half the recent mean size, so that
//! small frames do not crowd out large ones. Large frames take long because of their bytes, which says
//! nothing about their number: of these the log always has some to go on with, however they come.

use std::time::Duration;

/// The window's state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    frames: usize,
    frames_max: usize,
    /// Latency of a frame when the log is at ease, in microseconds; drifts up slowly.
    ease: f64,
    /// Recent mean of latency, in microseconds.
    latency: f64,
    /// Recent mean of a frame's size in bytes.
    bytes: f64,
    /// Completions until the next change.
    patience: u32,
}

/// Completions between two changes of the window.
const PATIENCE: u32 = 16;
/// Large frames in flight: while one is written, the next ones are built and queued behind it, so that
/// the log need not wait when this task has to, and may sync two at once.
const LARGE_FRAMES: usize = 4;

impl Window {
    /// Starts with all the log says is useful.
    pub(crate) fn new(frames_max: usize) -> Self {
        let frames_max = frames_max.max(1);
        Self {
            frames: frames_max,
            frames_max,
            ease: f64::INFINITY,
            latency: 0.0,
            bytes: 0.0,
            patience: PATIENCE,
        }
    }

    /// Returns how many frames may be in flight.
    pub(crate) fn frames(&self) -> usize {
        if self.bytes >= super::WORTH_SENDING as f64 {
            self.frames.max(LARGE_FRAMES)
        } else {
            self.frames
        }
    }

    /// Returns whether a frame of this size should join others in flight.
    pub(crate) fn is_worth(&self, bytes: usize) -> bool {
        bytes as f64 * 2.0 >= self.bytes || bytes >= super::WORTH_SENDING
    }

    /// Learns from a frame that became durable.
    pub(crate) fn completed(&mut self, latency: Duration, bytes: usize) {
        let latency = latency.as_secs_f64() * 1e6;
        let mean = |mean: f64, new: f64| mean + (new - mean) / 8.0;
        self.latency = mean(self.latency, latency);
        self.bytes = mean(self.bytes, bytes as f64);
        self.ease = (self.ease * 1.001).min(latency.max(1.0));
        self.patience -= 1;
        if self.patience > 0 {
            return;
        }
        self.patience = PATIENCE;
        // A frame waits for those before it in any case, so their number is no slowness.
        let at_ease = self.ease * (1 + self.frames) as f64;
        self.frames = if self.latency > 2.0 * at_ease {
            (self.frames / 2).max(1)
        } else {
            (self.frames + 1).min(self.frames_max)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_halves_when_frames_get_slow_and_comes_back() {
        let mut window = Window::new(8);
        let mut run = |millis, frames: u32| {
            for _ in 0..frames {
                window.completed(Duration::from_millis(millis), 1000);
            }
            window.frames()
        };
        assert_eq!(run(1, 64), 8);
        assert!(run(100, 64) < 4);
        assert_eq!(run(1, 512), 8);
    }

    #[test]
    fn large_frames_wait_behind_the_one_being_written_however_long_they_take() {
        let mut window = Window::new(2);
        for _ in 0..64 {
            window.completed(Duration::from_micros(100), 4096);
        }
        for _ in 0..256 {
            window.completed(Duration::from_millis(5), 2 * super::super::WORTH_SENDING);
        }
        assert_eq!(window.frames(), LARGE_FRAMES);
        for _ in 0..64 {
            window.completed(Duration::from_millis(5), 4096);
        }
        assert_eq!(window.frames(), 1);
    }

    #[test]
    fn a_frame_joins_others_at_half_the_mean() {
        let mut window = Window::new(2);
        for _ in 0..100 {
            window.completed(Duration::from_millis(1), 10_000);
        }
        assert!(!window.is_worth(4_000));
        assert!(window.is_worth(5_100));
        assert!(window.is_worth(super::super::WORTH_SENDING));
    }
}
