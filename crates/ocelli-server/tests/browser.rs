//! The page in a headless Chromium, with keys, clicks and drops as a user makes them.

mod support;

use serde_json::json;
use support::browser::Browser;
use support::{OTHERS, Page, QUERY, STRIPES};

const NAMES: &str = "[...document.querySelectorAll('.tile .name')].map((name) => name.textContent)";

fn names(browser: &mut Browser) -> Vec<String> {
    let names = browser.eval(NAMES);
    names.as_array().expect("list").iter().map(|name| name.as_str().expect("name").to_owned()).collect()
}

fn text(browser: &mut Browser, selector: &str) -> String {
    let text = browser.eval(&format!("document.querySelector({}).innerText", json!(selector)));
    text.as_str().expect("text").to_owned()
}

fn focus(browser: &mut Browser) -> String {
    let focus = browser.eval(
        "document.activeElement.id || document.activeElement.querySelector('.name')?.textContent || 'none'",
    );
    focus.as_str().expect("text").to_owned()
}

/// Type a query into the box and wait for its pictures.
fn search(browser: &mut Browser, query: &str) {
    browser.eval("document.querySelector('#q').select()");
    browser.type_text(query);
    browser.press("Enter");
    let asked = format!("new URLSearchParams(location.search).get('q') === {}", json!(query));
    browser.wait_for(&format!("{asked} && !document.body.hasAttribute('aria-busy')"));
}

const FOUND: &str = "document.querySelectorAll('.tile').length === 3";

#[test]
fn typing_finds_and_keys_walk() {
    let page = Page::start();
    let Some(mut browser) = Browser::start(1200, 800) else { return };
    browser.open(&page.address);
    // The box has the focus at once.
    assert_eq!(focus(&mut browser), "q");
    browser.wait_for("document.querySelector('#welcome-count').textContent !== ''");
    let welcome = text(&mut browser, "#welcome-count");
    assert_eq!(welcome, format!("{} pictures, from 2024-05-17 to 2024-05-19", OTHERS + 6));
    browser.type_text(QUERY);
    browser.press("Enter");
    browser.wait_for(FOUND);
    assert_eq!(
        names(&mut browser),
        ["a copy of red-1 under a name that no phone is wide enough for.jpg", "red-2.jpg", "red-3.jpg"]
    );
    assert_eq!(browser.eval("location.search"), json!("?q=a+red+square"));
    let status = text(&mut browser, "#status");
    assert!(status.starts_with(&format!("3 pictures of {} searched", OTHERS + 6)), "{status}");
    // Thumbnails are really shown.
    browser
        .wait_for("[...document.querySelectorAll('.tile img')].every((image) => image.naturalWidth === 320)");
    let label = browser.eval("document.querySelector('.tile').getAttribute('aria-label')");
    let label = label.as_str().expect("label");
    assert!(label.contains("score 0.") || label.contains("score 1.00"), "{label}");
    assert!(label.contains("Canon EOS R5"), "{label}");

    // Down into the pictures, along them, and into one.
    browser.press("ArrowDown");
    assert_eq!(focus(&mut browser), "a copy of red-1 under a name that no phone is wide enough for.jpg");
    browser.press("End");
    assert_eq!(focus(&mut browser), "red-3.jpg");
    browser.press("ArrowLeft");
    assert_eq!(focus(&mut browser), "red-2.jpg");
    let ring = browser.eval("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(ring, json!("solid"));
    browser.press("ArrowUp");
    assert_eq!(focus(&mut browser), "q");
    browser.press("ArrowDown");
    browser.press("Enter");
    browser.wait_for("document.querySelector('#details').open");
    browser.wait_for("document.querySelector('#details-image').naturalWidth === 400");
    browser.wait_for("document.querySelector('#details-list').innerText.includes('kB')");
    let details = text(&mut browser, "#details-list");
    for known in ["2024-05-17 18:30:00", "Canon EOS R5", "400 × 240", "48.13700° N, 11.57500° E", "red-1.jpg"]
    {
        assert!(details.contains(known), "{known} is not in {details}");
    }
    let files = browser.eval("document.querySelectorAll('#details-list code').length");
    assert_eq!(files, 2);
    browser.press("ArrowRight");
    assert_eq!(text(&mut browser, "#details-name"), "red-2.jpg");
    browser.press("ArrowRight");
    browser.press("ArrowRight");
    assert_eq!(text(&mut browser, "#details-name"), "red-3.jpg");
    browser.press("Escape");
    browser.wait_for("!document.querySelector('#details').open");
    // The focus comes to where the walk ended.
    browser.wait_for("document.activeElement.querySelector('.name')?.textContent === 'red-3.jpg'");
    browser.press("/");
    assert_eq!(focus(&mut browser), "q");
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn nothing_relevant_is_an_answer_and_weaker_pictures_are_offered() {
    let page = Page::start();
    let Some(mut browser) = Browser::start(1200, 800) else { return };
    browser.open(&format!("{}?q=a+red+square&path=other", page.address));
    browser.wait_for("!document.querySelector('#nothing').hidden");
    assert!(names(&mut browser).is_empty());
    let why = text(&mut browser, "#nothing-why");
    assert!(why.starts_with("The nearest picture scores 0.") && why.ends_with("below 0.80."), "{why}");
    assert!(text(&mut browser, "#filters summary").contains("(1)"));
    browser.click("#weaker");
    browser.wait_for("document.querySelectorAll('.tile').length >= 20");
    let score = browser.eval("Number(document.querySelector('#min-score').value)");
    assert!(score.as_f64().is_some_and(|score| score < 0.8), "{score}");
    // The slider hides them again, without asking anew.
    browser.eval("document.querySelector('#min-score').focus()");
    browser.press("End");
    browser.wait_for("document.querySelectorAll('.tile').length === 0");
    assert_eq!(text(&mut browser, "#min-score-text"), "1.00");
    // A filter that nothing passes.
    browser.open(&format!("{}?q=a+red+square&path=nowhere", page.address));
    browser.wait_for("document.querySelector('#nothing-why').textContent.includes('filters')");
    assert_eq!(browser.eval("document.querySelector('#weaker').hidden"), json!(true));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn filters_and_going_back() {
    let page = Page::start();
    let Some(mut browser) = Browser::start(1200, 800) else { return };
    browser.open(&page.address);
    search(&mut browser, QUERY);
    browser.wait_for(FOUND);
    browser.click("#filters summary");
    browser.wait_for("document.querySelector('#camera').options.length === 3");
    browser.eval("document.querySelector('#camera').focus()");
    browser.type_text("Canon EOS R5");
    browser.eval("document.querySelector('#since').focus()");
    browser.type_text("2024-05-17");
    browser.press("Tab");
    browser.wait_for("document.querySelectorAll('.tile').length === 1");
    assert!(browser.eval("location.search").as_str().expect("text").contains("camera=Canon+EOS+R5"));
    browser.eval("document.querySelector('#until').focus()");
    browser.type_text("tomorrow");
    browser.press("Enter");
    browser.wait_for("document.querySelector('#trouble').textContent.includes('tomorrow')");
    browser.eval("history.back()");
    browser.wait_for(
        "document.querySelector('#until').value === '' && document.querySelectorAll('.tile').length === 1",
    );
    assert_eq!(browser.eval("document.querySelector('#trouble').hidden"), json!(true));
    browser.click("#clear");
    browser.wait_for(FOUND);
    assert_eq!(browser.eval("location.search"), json!("?q=a+red+square"));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn a_picture_is_dropped_chosen_or_pasted() {
    let page = Page::start();
    let Some(mut browser) = Browser::start(1200, 800) else { return };
    let like = page.dir.path().join("stripes.jpg");
    let first_is_stripes = format!("document.querySelector('.tile')?.dataset.id === '{STRIPES}'");
    browser.open(&page.address);
    search(&mut browser, QUERY);
    browser.wait_for(FOUND);

    browser.drop_file(&like, "#found");
    browser.wait_for(&first_is_stripes);
    assert_eq!(text(&mut browser, "#picked-name"), "stripes.jpg");
    assert_eq!(browser.eval("document.querySelector('#drop').hidden"), json!(true));
    browser.wait_for("document.querySelector('#picked-image').naturalWidth === 400");
    browser.eval("history.back()");
    browser.wait_for(FOUND);
    assert_eq!(browser.eval("document.querySelector('#q').value"), json!(QUERY));
    browser.eval("history.forward()");
    browser.wait_for(&first_is_stripes);
    browser.click("#unpick");
    browser.wait_for("document.querySelector('#picked').hidden");

    browser.choose_file(&like, "#file");
    browser.wait_for(&first_is_stripes);

    search(&mut browser, QUERY);
    browser.wait_for(FOUND);
    browser.eval(
        "(async () => { const bytes = await (await fetch('/file/4')).blob(); const data = new DataTransfer(); \
         data.items.add(new File([bytes], 'pasted.jpg', {type: 'image/jpeg'})); \
         document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true})); })()",
    );
    browser.wait_for(&first_is_stripes);
    assert_eq!(text(&mut browser, "#picked-name"), "pasted.jpg");

    let broken = page.dir.path().join("broken.jpg");
    std::fs::write(&broken, b"no picture").expect("file");
    browser.drop_file(&broken, "#found");
    browser.wait_for("document.querySelector('#trouble').textContent.includes('not an image')");
    assert!(names(&mut browser).is_empty());
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn similar_pictures_and_files_that_are_gone() {
    let page = Page::start();
    let Some(mut browser) = Browser::start(1200, 800) else { return };
    browser.open(&format!("{}?q=a+red+square", page.address));
    browser.wait_for(FOUND);
    browser.click(".tile");
    browser.wait_for("document.querySelector('#details').open");
    browser.click("#similar");
    browser.wait_for(
        "location.search === '?like=1' && document.querySelector('.tile .name')?.textContent === 'red-2.jpg'",
    );
    assert_eq!(text(&mut browser, "#picked-name"), "like this");

    std::fs::remove_file(page.dir.path().join("red-2.jpg")).expect("removed");
    browser.click(".tile");
    browser.wait_for("document.querySelector('#details-reason').textContent.includes('red-2.jpg')");
    assert_eq!(browser.eval("document.querySelector('#details-image').hidden"), json!(true));
    // The next one can be seen again.
    browser.press("ArrowRight");
    browser.wait_for("document.querySelector('#details-image').naturalWidth === 400");
    assert_eq!(browser.eval("document.querySelector('#details-gone').hidden"), json!(true));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn fits_a_phone_and_the_dark() {
    let page = Page::start();
    let Some(mut browser) = Browser::start(360, 740) else { return };
    browser.prefer("dark");
    browser.open(&format!("{}?q=a+red+square", page.address));
    browser.wait_for(FOUND);
    let too_wide = "document.documentElement.scrollWidth > innerWidth";
    assert_eq!(browser.eval(too_wide), json!(false));
    browser.click("#filters summary");
    assert_eq!(browser.eval(too_wide), json!(false));
    assert_eq!(browser.eval("getComputedStyle(document.body).backgroundColor"), json!("rgb(23, 24, 25)"));
    browser.click(".tile");
    browser.wait_for("document.querySelector('#details-image').naturalWidth === 400");
    let inside = browser.eval(
        "[...document.querySelectorAll('#details button')].every((button) => { const r = button.getBoundingClientRect(); \
         return r.left >= 0 && r.right <= innerWidth && r.top >= 0 && r.bottom <= innerHeight; })",
    );
    assert_eq!(inside, json!(true));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// The picture of the page in `docs/images`: run with `--ignored`, `OCELLI_PICTURES` a folder of pictures whose names
/// begin with two digits, `OCELLI_SCREENSHOTS` the folder to write to. The tiny model knows nothing, so the numbers
/// say how near each picture is to the query, below 10 near.
#[test]
#[ignore = "writes screenshots"]
fn screenshots() {
    let (Some(pictures), Some(out)) =
        (std::env::var_os("OCELLI_PICTURES"), std::env::var_os("OCELLI_SCREENSHOTS"))
    else {
        panic!("set OCELLI_PICTURES and OCELLI_SCREENSHOTS");
    };
    let (pictures, out) = (std::path::PathBuf::from(pictures), std::path::PathBuf::from(out));
    let page = support::arranged(&pictures, "stars and rockets");
    let mut browser = Browser::start(1180, 760).expect("chromium");
    let address = format!("{}?q=stars+and+rockets", page.address);
    browser.prefer("light");
    browser.open(&page.address);
    browser.wait_for("document.querySelector('#welcome-count').textContent !== ''");
    browser.screenshot(&out.join("welcome.png"));
    let tiles = "document.querySelectorAll('.tile').length > 3 && [...document.querySelectorAll('.tile img')].every((i) => i.naturalWidth)";
    for (name, scheme, width, height) in
        [("search-page", "light", 1180, 600), ("dark", "dark", 1180, 600), ("phone", "light", 375, 720)]
    {
        browser.prefer(scheme);
        browser.resize(width, height);
        browser.open(&address);
        browser.wait_for(tiles);
        browser.screenshot(&out.join(format!("{name}.png")));
        browser.click("#filters summary");
        browser.screenshot(&out.join(format!("{name}-filters.png")));
        browser.click(".tile");
        browser.wait_for("document.querySelector('#details-image').naturalWidth > 0");
        browser.wait_for("/kB|MB/.test(document.querySelector('#details-list').innerText)");
        browser.screenshot(&out.join(format!("{name}-details.png")));
        browser.press("Escape");
        browser.eval("document.querySelector('#min-score').focus()");
        browser.press("End");
        browser.screenshot(&out.join(format!("{name}-nothing.png")));
    }
    browser.drop_file(&page.dir.path().join("Coffee.jpg"), "#nothing");
    browser.wait_for("!document.querySelector('#picked').hidden && !document.body.hasAttribute('aria-busy')");
    browser.screenshot(&out.join("phone-picked.png"));
}
