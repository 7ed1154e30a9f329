//! A model of the registry, ready to run: texts in, one vector each.
//!
//! Invariant: the vector of a text depends on the text alone. Its width is rounded up from its own length,
//! only documents of one width share a run, and at load it is tried whether the rows of a run are equal to
//! the bit to those of a run by itself; where they are not, documents run in pairs at least, or alone.

use std::path::Path;

use super::EngineChoice;
use super::bundle::{self, Manifest};
use super::engine::graph::{self, Graph, Rows};
use super::tokens::Tokenize;

/// Widths are multiples of this: of narrower steps there would be more runs, of wider ones more padding.
const WIDTH_STEP: usize = 8;
/// Rows of the run that is compared with runs of one row: with it every kernel that sees more than one row
/// at a time has had a full and an odd share.
const TRIED_ROWS: usize = 7;
/// Numbers per document.
pub(super) const DIMENSIONS_MAX: usize = 4_096;

/// How many documents may share a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    Any,
    /// One that is alone is run beside itself: one row takes another path through the kernels.
    Pairs,
    Alone,
}

impl Company {
    /// Documents of one width in runs of `rows` at most, as equal as may be; where one row costs as much
    /// as two, in runs of two or three at least.
    fn cut(self, documents: &[usize], rows: usize) -> impl Iterator<Item = &[usize]> {
        let count = documents.len();
        let runs = match self {
            Self::Alone => count,
            Self::Any => count.div_ceil(rows.max(1)),
            Self::Pairs => count.div_ceil(rows.max(2)).min(count / 2).max(count.min(1)),
        };
        let (each, longer) = (count / runs.max(1), count % runs.max(1));
        let start = move |run: usize| run * each + run.min(longer);
        (0..runs).map(move |run| &documents[start(run)..start(run + 1)])
    }
}

pub(super) struct Scorer {
    manifest: Manifest,
    tokenize: Tokenize,
    graph: Box<dyn Graph>,
    company: Company,
    rows: Rows,
}

impl Scorer {
    /// Loads an unpacked bundle, tries it and warms it.
    pub(super) fn load(
        dir: &Path,
        choice: EngineChoice,
        library: Option<&Path>,
    ) -> Result<Self, String> {
        let manifest = bundle::read(dir).map_err(|error| error.to_string())?;
        let tokenize = Tokenize::load(dir, &manifest)?;
        let graph = graph::open(&dir.join(bundle::MODEL), &manifest, choice, library)?;
        let company = if manifest.batch_dependent { Company::Alone } else { Company::Any };
        let mut scorer = Self { manifest, tokenize, graph, company, rows: Rows::default() };
        if scorer.company == Company::Any {
            scorer.company = scorer.tried()?;
        }
        scorer.score(&["the first run pays for what the others share"])?;
        Ok(scorer)
    }

    pub(super) fn engine(&self) -> (&'static str, String) {
        (self.graph.engine(), self.graph.version())
    }

    /// One vector per text, in order. An error is one of all: of which text it is, is not known.
    pub(super) fn score(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
        let mut ids = Vec::with_capacity(texts.len());
        for text in texts {
            ids.push(self.tokenize.ids(text)?);
        }
        let widths: Vec<usize> = ids.iter().map(|ids| self.width(ids.len())).collect();
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&index| (widths[index], index));
        let mut scores = vec![Vec::new(); texts.len()];
        for same in order.chunk_by(|&a, &b| widths[a] == widths[b]) {
            let width = widths[same[0]];
            for members in self.company.cut(same, self.manifest.padded_tokens / width) {
                let rows: Vec<&[i32]> = members.iter().map(|&index| &ids[index][..]).collect();
                for (&index, score) in members.iter().zip(self.run(&rows, width)?) {
                    scores[index] = score;
                }
            }
        }
        Ok(scores)
    }

    fn width(&self, tokens: usize) -> usize {
        if self.manifest.fixed_width {
            return self.manifest.tokens_max;
        }
        tokens.max(1).next_multiple_of(WIDTH_STEP).min(self.manifest.tokens_max.max(tokens))
    }

    fn run(&mut self, documents: &[&[i32]], width: usize) -> Result<Vec<Vec<f32>>, String> {
        let beside_itself = self.company == Company::Pairs && documents.len() == 1;
        let doubled;
        let all = if beside_itself {
            doubled = [documents[0]; 2];
            &doubled[..]
        } else {
            documents
        };
        self.fill(all, width);
        let numbers = self.graph.run(&self.rows)?;
        let each = self.dimensions(numbers.len(), all.len())?;
        Ok(numbers.chunks_exact(each).take(documents.len()).map(<[f32]>::to_vec).collect())
    }

    fn fill(&mut self, documents: &[&[i32]], width: usize) {
        let Rows { rows, width: filled, ids, mask } = &mut self.rows;
        (*rows, *filled) = (documents.len(), width);
        ids.clear();
        mask.clear();
        for (row, document) in (1..).zip(documents) {
            let document = &document[..document.len().min(width)];
            ids.extend_from_slice(document);
            mask.resize(ids.len(), 1);
            ids.resize(row * width, self.manifest.padding_id);
            mask.resize(row * width, 0);
        }
    }

    /// Numbers per document, if they are as many as the manifest says.
    fn dimensions(&self, numbers: usize, rows: usize) -> Result<usize, String> {
        let each = numbers / rows.max(1);
        let wanted = match self.manifest.labels.len() {
            0 => 1..=DIMENSIONS_MAX,
            labels => labels..=labels,
        };
        if each * rows != numbers || !wanted.contains(&each) {
            let (least, most) = (wanted.start(), wanted.end());
            return Err(format!(
                "{numbers} numbers for {rows} documents; each has {least} to {most}"
            ));
        }
        Ok(each)
    }

    /// Whether documents may share a run: the same ones are run together and by themselves, as narrow
    /// and as wide as there are.
    fn tried(&mut self) -> Result<Company, String> {
        for company in [Company::Any, Company::Pairs] {
            self.company = company;
            let mut equal = true;
            for width in [self.width(1), self.width(self.manifest.tokens_max.min(64))] {
                equal &= self.is_equal_in_company(width)?;
            }
            if equal {
                return Ok(company);
            }
        }
        Ok(Company::Alone)
    }

    fn is_equal_in_company(&mut self, width: usize) -> Result<bool, String> {
        // Real ids of the model's own vocabulary, since others may be out of its table.
        let words =
            "one of the documents that show whether a batch changes what is in it ".repeat(40);
        let all = self.tokenize.ids(&words)?;
        let document = |row: usize| -> Vec<i32> {
            let from = all.iter().copied().cycle().skip(row * 3);
            from.take((width - row.min(width - 1)).max(1)).collect()
        };
        let documents: Vec<Vec<i32>> = (0..TRIED_ROWS).map(document).collect();
        let rows: Vec<&[i32]> = documents.iter().map(|ids| &ids[..]).collect();
        let together = self.run(&rows, width)?;
        let two = self.run(&rows[..2], width)?;
        let mut equal = two[..] == together[..2];
        for (row, together) in rows.iter().zip(&together) {
            let alone = self.run(&[row], width)?;
            let bits = |score: &[f32]| -> Vec<u32> { score.iter().map(|x| x.to_bits()).collect() };
            equal &= bits(&alone[0]) == bits(together);
        }
        Ok(equal)
    }
}

#[cfg(test)]
mod tests {
    use super::Company;

    fn runs(company: Company, documents: usize, rows: usize) -> Vec<usize> {
        let documents: Vec<usize> = (0..documents).collect();
        let runs: Vec<&[usize]> = company.cut(&documents, rows).collect();
        assert_eq!(runs.concat(), documents, "each once, in order");
        runs.into_iter().map(<[usize]>::len).collect()
    }

    #[test]
    fn runs_are_as_full_as_may_be_and_none_is_left_with_one() {
        assert_eq!(runs(Company::Any, 0, 4), [0; 0]);
        assert_eq!(runs(Company::Any, 9, 4), [3, 3, 3]);
        assert_eq!(runs(Company::Any, 3, 0), [1, 1, 1]);
        assert_eq!(runs(Company::Pairs, 17, 16), [9, 8]);
        // Beside itself each would cost twice as much.
        assert_eq!(runs(Company::Pairs, 5, 1), [3, 2]);
        assert_eq!(runs(Company::Pairs, 1, 16), [1]);
        assert_eq!(runs(Company::Pairs, 0, 16), [0; 0]);
        assert_eq!(runs(Company::Alone, 3, 16), [1, 1, 1]);
    }
}
