//! Whole scans: independence of neighbours, engines against each other, spans, floors of the evaluation set.
