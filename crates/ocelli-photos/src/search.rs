//! From words and pictures to photos.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use ocelli::{DecodeOptions, MobileClip};
use ocelli_index::{Answer, Filter, Graph, Index, Picture, Query, Selection, Vectors};

use crate::photo::is_picture_path;
use crate::{PhotoError, photo};

/// From this many pictures on, the graph answers sooner than reading all vectors does, by enough to notice: see
/// `bench/results/README.md`.
const GRAPH_FROM: usize = 1_500_000;

/// Whether an index of so many pictures should have a graph.
pub fn graph_pays(pictures: usize) -> bool {
    pictures >= GRAPH_FROM
}

/// Loads the model when it is first needed.
pub type LoadModel = Box<dyn Fn() -> Result<MobileClip, PhotoError> + Send + Sync>;

/// What to look for.
#[derive(Clone, Debug)]
pub enum Look {
    /// Words and files of pictures.
    Query(Query),
    /// A picture like this one: a whole image file.
    Bytes(Vec<u8>),
    /// A picture like this one of the index.
    Like(i64),
}

/// A search.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to look for.
    pub look: Look,
    /// What counts.
    pub filter: Filter,
    /// Most pictures to return.
    pub count: usize,
    /// Pictures below this score are left out, 0 to 1.
    pub min_score: f32,
}

/// A picture that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is known of it.
    pub picture: Picture,
    /// How sure it is that this is no accident, 0 to 1.
    pub score: f32,
    /// Cosine of query and picture.
    pub similarity: f32,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Results {
    /// The nearest first.
    pub found: Vec<Found>,
    /// Pictures that were searched.
    pub searched: usize,
    /// Score of the nearest, whether it was returned or not.
    pub best_score: f32,
    /// Whether a graph was asked instead of reading every vector.
    pub from_graph: bool,
    /// From words to a vector.
    pub embed_ms: f64,
    /// From the vector to pictures.
    pub search_ms: f64,
}

/// An index and the model that made it, open for search.
pub struct PhotoSearch {
    path: PathBuf,
    load: LoadModel,
    model: OnceLock<MobileClip>,
    loading: Mutex<()>,
    open: Mutex<Option<Open>>,
}

/// One state of the index.
struct Open {
    index: Index,
    vectors: Arc<Vectors>,
    graph: Option<Graph>,
}

impl Open {
    fn new(path: &Path) -> Result<Self, PhotoError> {
        let index = Index::open(path)?;
        let vectors = Arc::new(index.vectors()?);
        let graph = index.graph(&vectors)?;
        Ok(Self { index, vectors, graph })
    }

    fn search(&self, vector: &[f32], count: usize, among: Option<&Selection>) -> Result<Answer, PhotoError> {
        Ok(match &self.graph {
            Some(graph) => graph.search(vector, count, among)?,
            None => self.vectors.search(vector, count, among)?,
        })
    }
}

impl PhotoSearch {
    /// Open an index. The model is loaded when words or a picture are first looked for.
    ///
    /// # Errors
    /// When there is no index, or it cannot be read.
    pub fn open(path: &Path, load: LoadModel) -> Result<Self, PhotoError> {
        Index::open(path)?;
        Ok(Self {
            path: path.to_owned(),
            load,
            model: OnceLock::new(),
            loading: Mutex::new(()),
            open: Mutex::new(None),
        })
    }

    /// Run a search against the newest state of the index.
    ///
    /// # Errors
    /// When the model does not load or is not the index's, a picture cannot be read, or the index cannot.
    pub fn search(&self, request: &Request) -> Result<Results, PhotoError> {
        let start = Instant::now();
        let vector = self.vector(&request.look)?;
        let embed_ms = start.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        self.with_index(|open| {
            let selection = if request.filter.is_empty() {
                None
            } else {
                Some(Selection::new(&open.vectors, &open.index.select(&request.filter)?))
            };
            let searched = selection.as_ref().map_or(open.vectors.len(), Selection::len);
            let answer = open.search(&vector, request.count.max(1), selection.as_ref())?;
            let best_score = answer.hits.first().map_or(0.0, |hit| hit.score);
            let mut found = Vec::new();
            for hit in answer.hits.iter().take(request.count).filter(|hit| hit.score >= request.min_score) {
                let picture = open.index.picture(hit.id)?;
                found.push(Found { picture, score: hit.score, similarity: hit.similarity });
            }
            let search_ms = start.elapsed().as_secs_f64() * 1e3;
            Ok(Results { found, searched, best_score, from_graph: open.graph.is_some(), embed_ms, search_ms })
        })
    }

    /// What is known of a picture.
    ///
    /// # Errors
    /// When there is none with this id.
    pub fn picture(&self, id: i64) -> Result<Picture, PhotoError> {
        self.with_index(|open| Ok(open.index.picture(id)?))
    }

    /// Use the index itself, in its newest state, with its vectors and graph.
    ///
    /// # Errors
    /// What `f` returns, or when the index cannot be read.
    pub fn with<R>(
        &self,
        f: impl FnOnce(&Index, &Arc<Vectors>, Option<&Graph>) -> Result<R, PhotoError>,
    ) -> Result<R, PhotoError> {
        self.with_index(|open| f(&open.index, &open.vectors, open.graph.as_ref()))
    }

    fn with_index<R>(&self, f: impl FnOnce(&Open) -> Result<R, PhotoError>) -> Result<R, PhotoError> {
        let mut kept = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = match &*kept {
            Some(open) => open.index.generation()? == open.vectors.generation(),
            None => false,
        };
        if !fresh {
            *kept = None;
        }
        let open = match &mut *kept {
            Some(open) => open,
            empty => empty.insert(Open::new(&self.path)?),
        };
        f(open)
    }

    fn vector(&self, look: &Look) -> Result<Vec<f32>, PhotoError> {
        match look {
            Look::Like(id) => self.with_index(|open| Ok(open.index.vector(*id)?)),
            Look::Bytes(bytes) => self.picture_vector(bytes),
            Look::Query(query) => {
                let vectors: Result<Vec<_>, PhotoError> =
                    query.terms.iter().map(|term| self.term_vector(&term.text)).collect();
                Ok(query.combine(&vectors?)?)
            }
        }
    }

    fn term_vector(&self, text: &str) -> Result<Vec<f32>, PhotoError> {
        if !is_picture_path(text) {
            return Ok(self.model()?.embed_texts(&[text])?.remove(0));
        }
        let path = expand_home(text);
        let bytes = std::fs::read(&path).map_err(|source| PhotoError::Io { path: path.clone(), source })?;
        self.picture_vector(&bytes).map_err(|error| match error {
            PhotoError::Image(error) => ocelli::ImageError::InFile { path, source: Box::new(error) }.into(),
            other => other,
        })
    }

    /// The vector of a picture: of the index, where that has it, else of the model.
    fn picture_vector(&self, bytes: &[u8]) -> Result<Vec<f32>, PhotoError> {
        let hash = ocelli_index::hash(bytes);
        let known = self.with_index(|open| match open.index.picture_with(&hash)? {
            Some(id) => Ok(Some(open.index.vector(id)?)),
            None => Ok(None),
        })?;
        if let Some(vector) = known {
            return Ok(vector);
        }
        let (pixels, _) = photo::read(bytes, &DecodeOptions::default())?;
        let model = self.model()?;
        Ok(model.embed_images(&[model.prepare_image(&pixels)])?.remove(0))
    }

    fn model(&self) -> Result<&MobileClip, PhotoError> {
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = self.model.get() {
            return Ok(model);
        }
        let model = (self.load)()?;
        let stored = self.with_index(|open| Ok(open.index.config().model.clone()))?;
        let asked = model.identity();
        if stored != asked {
            return Err(PhotoError::OtherModel { stored, asked });
        }
        Ok(self.model.get_or_init(|| model))
    }
}

/// `~/` is the user's home; shells do not see it inside of a quoted query.
fn expand_home(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(text),
    }
}
