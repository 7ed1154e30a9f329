//! Texts on their way to the slots: shared, so that neither a part of them nor a second try copies one.

use std::sync::Arc;

/// Some of the texts of a request or a task, in order. Clones and parts share them.
#[derive(Clone, Debug)]
pub struct Texts {
    all: Arc<[String]>,
    chosen: Arc<[u32]>,
}

impl Texts {
    /// The texts with these numbers, in the order of the numbers; one that there is not is left out.
    #[must_use]
    pub fn choose(&self, numbers: &[usize]) -> Self {
        let chosen = numbers.iter().filter_map(|&number| self.chosen.get(number).copied());
        Self { all: Arc::clone(&self.all), chosen: chosen.collect() }
    }

    /// All of them in parts of at most so many.
    pub fn parts(&self, most: usize) -> impl Iterator<Item = Self> + '_ {
        let part = |chosen: &[u32]| Self { all: Arc::clone(&self.all), chosen: chosen.into() };
        self.chosen.chunks(most.max(1)).map(part)
    }

    /// Each in its turn.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.chosen.iter().map(|&number| self.all[number as usize].as_str())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }
}

impl From<Vec<String>> for Texts {
    fn from(all: Vec<String>) -> Self {
        let chosen = (0..all.len() as u32).collect();
        Self { all: all.into(), chosen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_what_was_chosen_are_the_texts_themselves() {
        let texts = Texts::from(["a", "b", "c", "d"].map(str::to_owned).to_vec());
        let chosen = texts.choose(&[3, 1, 9, 0]);
        assert_eq!(chosen.iter().collect::<Vec<_>>(), ["d", "b", "a"]);
        let parts: Vec<Texts> = chosen.parts(2).collect();
        assert_eq!(parts[1].iter().collect::<Vec<_>>(), ["a"]);
        assert!(std::ptr::eq(parts[1].iter().next().unwrap(), texts.iter().next().unwrap()));
        assert_eq!((chosen.len(), chosen.choose(&[2]).len()), (3, 1));
    }
}
