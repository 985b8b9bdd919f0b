//! An input as a program: steps of eight bytes, so that cutting and joining inputs keeps most of their meaning.

/// One instruction. What the numbers mean is for whoever reads it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub kind: u8,
    pub a: u8,
    pub b: u16,
    pub x: u32,
}

impl Step {
    pub const LEN: usize = 8;

    pub fn new(kind: u8, a: u8, b: u16, x: u32) -> Self {
        Self { kind, a, b, x }
    }

    fn read(bytes: &[u8; Self::LEN]) -> Self {
        let [kind, a, b0, b1, x0, x1, x2, x3] = *bytes;
        Self { kind, a, b: u16::from_le_bytes([b0, b1]), x: u32::from_le_bytes([x0, x1, x2, x3]) }
    }

    fn write(&self) -> [u8; Self::LEN] {
        let ([b0, b1], [x0, x1, x2, x3]) = (self.b.to_le_bytes(), self.x.to_le_bytes());
        [self.kind, self.a, b0, b1, x0, x1, x2, x3]
    }
}

/// The first `most` steps of an input.
pub fn read(input: &[u8], most: usize) -> Vec<Step> {
    input.as_chunks().0.iter().take(most).map(Step::read).collect()
}

/// The input that [`read`] reads so.
pub fn write(steps: &[Step]) -> Vec<u8> {
    steps.iter().flat_map(Step::write).collect()
}
