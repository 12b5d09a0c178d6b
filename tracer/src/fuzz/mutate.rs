//! Samples and damage, in an order that looks random and is the same in every run.

use super::targets::Target;

/// Numbers at which programs go wrong.
const EDGES: [u64; 9] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff_ffff_ffff];

/// Makes inputs of samples.
pub(super) struct Mutator<'a> {
    samples: &'a [Vec<u8>],
    words: &'a [&'a str],
    /// Inputs are no longer than this.
    longest: usize,
    dice: u64,
}

impl<'a> Mutator<'a> {
    pub(super) fn new(target: &'a Target) -> Self {
        let Target { samples, words, longest, .. } = target;
        Self { samples, words, longest: *longest, dice: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Below `sides`; 0 when there are none.
    fn roll(&mut self, sides: usize) -> usize {
        // xorshift64
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as usize % sides.max(1)
    }

    /// A sample with a few things done to it.
    pub(super) fn next(&mut self) -> Vec<u8> {
        let mut input = self.samples[self.roll(self.samples.len())].clone();
        for _ in 0..=self.roll(6) {
            self.damage(&mut input);
            input.truncate(self.longest);
        }
        input
    }

    fn damage(&mut self, input: &mut Vec<u8>) {
        let at = self.roll(input.len() + 1);
        match self.roll(9) {
            0 => input.truncate(at),
            1 => self.byte(input, |byte, roll| byte ^ 1 << (roll % 8)),
            2 => self.byte(input, |_, roll| roll as u8),
            3 => {
                let width = [1, 2, 4, 8][self.roll(4)];
                let edge = EDGES[self.roll(EDGES.len())].to_ne_bytes();
                let end = (at + width).min(input.len());
                input[at..end].copy_from_slice(&edge[..end - at]);
            }
            4 => {
                let end = at + self.roll(input.len() - at + 1);
                input.drain(at..end);
            }
            // Again and again: what is nested, or counted.
            5 => {
                let end = at + self.roll((input.len() - at).min(64) + 1);
                let times = 1 << self.roll(10);
                let part = input[at..end].repeat(times);
                input.splice(at..at, part.into_iter().take(self.longest));
            }
            6 => {
                let other = &self.samples[self.roll(self.samples.len())];
                let from = self.roll(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
            7 if !self.words.is_empty() => {
                let word = self.words[self.roll(self.words.len())];
                let times = 1 << self.roll(12);
                let end = at + self.roll(2) * word.len().min(input.len() - at);
                input.splice(
                    at..end,
                    word.repeat(times).into_bytes().into_iter().take(self.longest),
                );
            }
            _ => {
                let number = EDGES[self.roll(EDGES.len())].to_string();
                input.splice(at..at, number.into_bytes());
            }
        }
    }

    fn byte(&mut self, input: &mut [u8], change: impl Fn(u8, usize) -> u8) {
        let (at, roll) = (self.roll(input.len()), self.roll(256));
        if let Some(byte) = input.get_mut(at) {
            *byte = change(*byte, roll);
        }
    }
}
