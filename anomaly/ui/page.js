// What the page does beyond gradio's own components: paste and drop anywhere, a viewer for the pictures,
// announcements for people who do not see the banner, and the language of the page.
(() => {
  const find = (selector) => document.querySelector(selector);
  const drop = () => [...document.querySelectorAll(".drop")].find((zone) => zone.offsetParent); // of the open tab

  // A photo that was pasted or dropped anywhere goes to the drop zone; before a product is chosen, nowhere.
  const offer = (files) => {
    const image = [...(files || [])].find((file) => file.type.startsWith("image/"));
    const input = drop()?.querySelector("input[type=file]");
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
    if (!event.target.closest(".drop")) offer(event.dataTransfer?.files);
  });

  // gradio puts the camera away after each photo; once allowed, it comes back for the next part by itself.
  let camera = false;
  document.addEventListener("click", (event) => {
    if (event.target.closest('.drop [title="grant webcam access"]')) camera = true;
    if (event.target.closest('.drop [data-testid="source-select"]')) camera = false;
  });
  new MutationObserver(() => {
    if (camera) drop()?.querySelector('[title="grant webcam access"] button')?.click();
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

  // Two pictures in one place: the line between them follows its slider.
  document.addEventListener("input", (event) => {
    event.target.closest(".curtain .pair")?.style.setProperty("--at", `${event.target.value}%`);
  });

  // Review by keyboard: a key presses the button that names it, unless the person types, steers a list or holds it down.
  const pressed = (event) => {
    const at = event.target, arrow = event.key.startsWith("Arrow");
    const typing = at.closest?.("input:not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable=true]");
    if (event.key === "Escape" && at.matches?.("#review-part input")) at.blur();
    const steering = arrow && at.closest?.("[type=radio], [role=slider], [role=listbox]");
    if (typing || steering || event.repeat || event.ctrlKey || event.metaKey || event.altKey || find("dialog[open]")) return;
    const named = document.querySelectorAll("#review-part [data-key]");
    const button = [...named].find((one) => one.dataset.key === event.key.toLowerCase() && one.checkVisibility());
    if (!button) return;
    event.preventDefault();
    if (button.matches("input")) button.focus();
    else button.click();
  };
  document.addEventListener("keydown", pressed);
  document.addEventListener("click", (event) => {
    if (event.target.closest('#review-part [data-key="m"]')) find("#review").classList.toggle("unmarked");
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

// The language. The server speaks English; what it sends is translated here, text by text, as it appears. The catalogue
// `words` has the English text as key, with {names} in place of what changes, names of one letter for numbers, and the
// first that fits counts; translate="no" marks what is not ours.
(() => {
  const LANGUAGES = { zh: "zh-CN", ms: "ms" };
  const SKIPPED = '[translate="no"], script, style, code, [contenteditable]';
  const SPOKEN = ["alt", "aria-label", "aria-valuetext", "placeholder", "title"];
  const language = LANGUAGES[(localStorage.getItem("language") || navigator.language).split("-")[0]] || "en";

  document.addEventListener("change", (event) => {
    if (event.target.id !== "language") return;
    localStorage.setItem("language", event.target.value);
    location.reload(); // gradio's own words change on loading only
  });
  const attach = () => {
    const choice = document.querySelector("#language");
    if (choice) choice.value = language;
    else setTimeout(attach, 200);
  };
  attach();
  if (language === "en") return;

  const known = new Map(), templates = [], seen = new Map();
  for (const [english, translations] of Object.entries(window.words)) {
    const names = [...english.matchAll(/{(\w+)}/g)].map((match) => match[1]);
    if (!names.length) known.set(english, translations[language]);
    else {
      const fixed = english.split(/{\w+}/).map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
      const value = "((?:(?![.!?] | · ).)*?[^.])"; // no end of a sentence: a name must not swallow the next one
      const pattern = fixed.reduce((made, text, i) => made + (names[i - 1].length > 1 ? value : "([\\d.,]+)") + text);
      templates.push([new RegExp(`^${pattern}$`, "s"), names, translations[language]]);
    }
  }
  const find = (text) => {
    if (known.has(text)) return known.get(text);
    for (const [pattern, names, translation] of templates) {
      const match = text.match(pattern);
      if (match) return translation.replace(/{(\w+)}/g, (_, name) => {
        const value = match[names.indexOf(name) + 1];
        return find(value) ?? value;
      });
    }
  };
  const stop = language === "zh-CN" ? "。" : ".";
  const say = (text) => {
    const whole = find(text) ?? (text.endsWith(".") ? find(text.slice(0, -1))?.concat(stop) : undefined);
    if (whole !== undefined) return whole;
    for (const end of [/((?<=[.!?]) (?=\S)| · )/, /(; |(?<=\)) and (?=\d))/]) {
      const parts = text.split(end);
      if (parts.length === 1) continue;
      return parts.map((part, i) => (i % 2 ? known.get(part) ?? part : say(part))).join("").replaceAll("。 ", "。");
    }
    return text;
  };
  const translated = (text) => {
    const bare = text?.trim();
    if (!bare || !/[a-z]{2}/i.test(bare)) return text;
    if (seen.size > 5000) seen.clear(); // numbers change for ever
    if (!seen.has(bare)) seen.set(bare, say(bare));
    return text.replace(bare, () => seen.get(bare));
  };

  const write = (node) => {
    const text = translated(node.nodeValue);
    if (text !== node.nodeValue) node.nodeValue = text;
  };
  const relabel = (element) => {
    for (const name of SPOKEN) {
      const text = element.getAttribute(name);
      if (text && translated(text) !== text) element.setAttribute(name, translated(text));
    }
  };
  const walk = (root) => {
    if (root.nodeType === Node.TEXT_NODE) return root.parentElement?.closest(SKIPPED) || write(root);
    if (root.nodeType !== Node.ELEMENT_NODE || root.closest(SKIPPED)) return;
    relabel(root);
    for (const child of root.childNodes) walk(child);
  };
  new MutationObserver((changes) => {
    for (const change of changes) {
      if (change.type === "childList") change.addedNodes.forEach(walk);
      else if (change.type === "characterData") walk(change.target);
      else if (!change.target.closest(SKIPPED)) relabel(change.target);
    }
  }).observe(document.documentElement, {
    attributeFilter: SPOKEN, attributes: true, characterData: true, childList: true, subtree: true,
  });
  walk(document.documentElement);
  document.documentElement.lang = language;
})();
