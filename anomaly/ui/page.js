// What the page does beyond gradio's own components: paste and drop anywhere, a viewer for the pictures,
// and announcements for people who do not see the banner.
(() => {
  const find = (selector) => document.querySelector(selector);

  // A photo that was pasted or dropped anywhere goes to the drop zone; before a product is chosen, nowhere.
  const offer = (files) => {
    const image = [...(files || [])].find((file) => file.type.startsWith("image/"));
    const input = find("#photo input[type=file]");
    if (!image || !input) return;
    const carrier = new DataTransfer();
    carrier.items.add(image);
    input.files = carrier.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  document.addEventListener("paste", (event) => offer(event.clipboardData?.files));
  for (const name of ["dragover", "drop"]) {
    // Without this the browser would leave the app and open the photo in its place.
    document.addEventListener(name, (event) => event.preventDefault());
  }
  document.addEventListener("drop", (event) => {
    if (!event.target.closest("#photo")) offer(event.dataTransfer?.files);
  });

  // gradio puts the camera away after each photo; once allowed, it comes back for the next part by itself.
  let camera = false;
  document.addEventListener("click", (event) => {
    if (event.target.closest('#photo [title="grant webcam access"]')) camera = true;
    if (event.target.closest('#photo [data-testid="source-select"]')) camera = false;
  });
  new MutationObserver(() => {
    if (camera) find('#photo [title="grant webcam access"] button')?.click();
  }).observe(document.documentElement, { childList: true, subtree: true });

  // The viewer: the three pictures at full size, in the same place, so that flipping shows what differs.
  let shown = null;
  const viewer = () => {
    let dialog = find("#viewer");
    if (dialog) return dialog;
    dialog = document.createElement("dialog");
    dialog.id = "viewer";
    dialog.setAttribute("aria-label", "Picture at full size");
    dialog.innerHTML =
      '<header><h2></h2><button data-step="-1" aria-label="Previous picture">&#9664;</button>' +
      '<button data-step="1" aria-label="Next picture">&#9654;</button><button data-close>Close</button></header><img alt="">';
    document.body.append(dialog);
    dialog.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.step) flip(Number(button.dataset.step));
      else if (button || event.target === dialog) dialog.close();
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") flip(-1);
      if (event.key === "ArrowRight") flip(1);
    });
    return dialog;
  };
  const show = (title) => {
    const source = find(`.enlarge[data-title="${title}"] img`);
    if (!source) return;
    shown = title;
    const dialog = viewer();
    dialog.querySelector("h2").textContent = title;
    Object.assign(dialog.querySelector("img"), { src: source.src, alt: source.alt });
    if (!dialog.open) dialog.showModal();
  };
  const flip = (step) => {
    const titles = [...document.querySelectorAll(".enlarge[data-title]")].map((button) => button.dataset.title);
    if (titles.length) show(titles[(titles.indexOf(shown) + step + titles.length) % titles.length]);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".enlarge[data-title]");
    if (button) show(button.dataset.title);
  });

  // Limits on trial: both lines of the histogram follow the sliders at once; the figures come from the server.
  const reading = (score) => (score >= 10000 ? score.toFixed(0) : String(Number(score.toPrecision(4))));
  document.addEventListener("input", (event) => {
    const slider = event.target.closest("#tune-fail, #tune-review");
    const plot = find(".histogram");
    const score = Number(event.target.value);
    if (!slider || !plot || !(score > 0)) return;
    const moved = slider.id === "tune-fail" ? "fail" : "review";
    plot.dataset[moved] = score;
    // The other one gives way where they would cross.
    if (Number(plot.dataset.review) > Number(plot.dataset.fail)) plot.dataset.review = plot.dataset.fail = score;
    for (const name of ["fail", "review"]) {
      const at = Math.min(1, plot.dataset[name] / plot.dataset.end);
      plot.style.setProperty(`--at-${name}`, `${100 * at}%`);
      plot.querySelector(`.lines .${name} span`).textContent = reading(Number(plot.dataset[name]));
    }
  });

  // The banner speaks, and on a narrow screen comes into view when a photo was added.
  const attach = () => {
    const banner = find("#verdict .html-container");
    if (!banner) return setTimeout(attach, 200);
    banner.setAttribute("role", "status");
    banner.setAttribute("aria-live", "polite");
    banner.setAttribute("aria-atomic", "true");
    new MutationObserver(() => {
      const box = banner.getBoundingClientRect();
      const busy = banner.querySelector(".busy, .refused");
      if (busy && (box.bottom > innerHeight || box.top < 0)) banner.scrollIntoView({ block: "start", behavior: "smooth" });
    }).observe(banner, { childList: true, subtree: true });
  };
  attach();
})();
