//! The search page, served for this machine alone.
