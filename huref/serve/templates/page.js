"use strict";
// Talks to the API of the server that sent the page, and to nothing else.
const WAIT = 400; // milliseconds between two looks at a job
const MOST_TRIES = 40; // looks without an answer, until the page gives up
// The token is in a cookie by now; a history or a screenshot need not have it.
const address = new URL(location.href);
if (address.searchParams.has("token")) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

const $ = (selector, within = document) => within.querySelector(selector);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(data.error ?? `the server answered ${answer.status}`), { told: true });
  return data;
}

const send = (path, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

function explain(error) {
  return error.told ? error.message : "The connection to huref is lost. Is it still running?";
}

// Tabs: arrow keys move between them, as screen readers announce.
const tabs = [...document.querySelectorAll("[role=tab]")];
function select(tab, focus) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    document.getElementById(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
}
for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const to = { Home: 0, End: tabs.length - 1 }[event.key] ?? (step && (place + step + tabs.length) % tabs.length);
    if (to === undefined) return;
    event.preventDefault();
    select(tabs[to], true);
  });
}

// A form with what it names: typed lines and added files.
class Work {
  constructor(form) {
    this.form = form;
    this.kind = form.dataset.kind;
    this.field = $("textarea, input:not([type])", form);
    this.error = $(`#${this.kind}-error`);
    this.progress = $(`#${this.kind}-progress`);
    this.result = $(`#${this.kind}-result`);
    this.stage = $(".stage", this.progress);
    this.amount = $(".amount", this.progress);
    this.bar = $("progress", this.progress);
    this.button = $(".main", form);
    this.files = new Map();
    this.job = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    $(".cancel", this.progress).addEventListener("click", () => this.cancel());
    if (this.field) this.takeFiles();
  }

  get single() {
    return this.kind === "identify";
  }

  get names() {
    if (!this.field) return [];
    return [...this.field.value.split("\n").map((line) => line.trim()).filter(Boolean), ...this.files.keys()];
  }

  takeFiles() {
    const picker = $(".picker", this.form);
    const drop = $(".drop", this.form);
    picker.addEventListener("change", async () => {
      await this.addFiles([...picker.files]);
      picker.value = "";
    });
    const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    drop.addEventListener("dragover", (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      drop.classList.add("over");
    });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      drop.classList.remove("over");
      this.addFiles([...event.dataTransfer.files]);
    });
    this.field.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.addFiles(files);
    });
    const details = $(".found", this.form);
    details.addEventListener("toggle", () => details.open && this.listModels($(".picks", details)), { once: true });
  }

  async addFiles(files) {
    this.error.textContent = "";
    for (const file of files) {
      try {
        const query = new URLSearchParams({ name: file.name });
        const { model } = await ask(`/api/files?${query}`, { method: "POST", body: file });
        this.showFile(model, file.name);
      } catch (error) {
        // The server's words begin with the name.
        this.error.textContent = error.told ? error.message : `${file.name}: it could not be read or sent; a folder cannot be dropped, type its name`;
      }
    }
  }

  showFile(model, name) {
    if (this.single) {
      this.files.clear();
      $(".files", this.form).replaceChildren();
      this.field.value = "";
    }
    this.files.set(model, name);
    const item = document.createElement("li");
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove ${name}`);
    remove.addEventListener("click", () => {
      this.files.delete(model);
      item.remove();
      this.field.focus();
    });
    item.append(name, remove);
    $(".files", this.form).append(item);
  }

  async listModels(place) {
    place.textContent = "Looking …";
    try {
      const { models } = await ask("/api/models");
      place.replaceChildren(...models.map(({ name, kind }) => this.pick(name, kind)));
      if (!models.length) place.textContent = "There are none below the folders that may be read.";
    } catch (error) {
      place.textContent = explain(error);
    }
  }

  pick(name, kind) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = kind === "model" ? name : `${name} (${kind})`;
    button.addEventListener("click", () => {
      const before = this.field.value.trimEnd();
      this.field.value = this.single || !before ? name : `${before}\n${name}`;
    });
    return button;
  }

  async start() {
    this.error.textContent = "";
    const names = this.names;
    if (this.kind === "compare" && names.length < 2) return this.refuse("Name at least two models.");
    if (this.single && names.length !== 1) return this.refuse(names.length ? "Give one model: type its name or add a file, not both." : "Name a model.");
    const body = { compare: { models: names }, identify: { model: names[0] }, map: {} }[this.kind];
    try {
      const { job } = await send(`/api/${this.kind}`, body);
      history.replaceState(null, "", `#${this.kind}=${job}`);
      await this.follow(job);
    } catch (error) {
      this.refuse(explain(error));
    }
  }

  refuse(words) {
    this.busy(false);
    this.error.textContent = words;
  }

  busy(is) {
    this.progress.hidden = !is;
    this.button.disabled = is;
  }

  async follow(job) {
    this.job = job;
    this.result.hidden = true;
    this.result.replaceChildren();
    this.stage.textContent = "";
    this.bar.value = 0;
    this.busy(true);
    for (let tries = 0; tries < MOST_TRIES; ) {
      let state;
      try {
        state = await ask(`/api/jobs/${job}`);
        tries = 0;
      } catch (error) {
        if (error.told) return this.refuse(error.message);
        tries += 1;
        this.say(`The connection is lost; trying again (${tries} of ${MOST_TRIES})`);
        await pause(3 * WAIT);
        continue;
      }
      if (this.job !== job) return;
      if (state.state === "done") return this.show(state);
      if (state.state === "failed") return this.refuse(state.cancelled ? "Cancelled." : state.error);
      this.bar.value = state.progress;
      this.say(state.state === "queued" ? (state.ahead ? `Waiting; ${state.ahead} before it` : "Waiting for others to end") : state.stage);
      await pause(WAIT);
    }
    this.refuse(explain({}));
  }

  // The amount changes often; the words, which are read out, change with the stage.
  say(words) {
    const [head, amount] = words.split(": ");
    if (this.stage.textContent !== head) this.stage.textContent = head;
    this.amount.textContent = amount ?? "";
  }

  async show(state) {
    if (this.kind === "map") {
      const frame = document.createElement("iframe");
      frame.title = "Map of the known bases";
      frame.setAttribute("sandbox", "allow-scripts");
      frame.src = `/api/jobs/${state.job}/map`;
      const link = document.createElement("a");
      link.className = "button";
      link.href = `/api/jobs/${state.job}/map?save`;
      link.textContent = "Save the map";
      const line = document.createElement("p");
      line.append(link);
      this.result.replaceChildren(frame, line);
    } else {
      const answer = await fetch(`/api/jobs/${state.job}/view`);
      if (!answer.ok) return this.refuse("The result is gone; the server was started again.");
      this.result.innerHTML = await answer.text(); // escaped by the server's templates
    }
    this.busy(false);
    this.result.hidden = false;
    $("h2", this.result)?.focus();
  }

  async cancel() {
    const job = this.job;
    try {
      await ask(`/api/jobs/${job}`, { method: "DELETE" });
    } catch (error) {
      this.refuse(explain(error));
    }
  }
}

const works = new Map([...document.querySelectorAll("form[data-kind]")].map((form) => [form.dataset.kind, new Work(form)]));

// A job in the address is taken up again after the page was closed or reloaded.
const [kind, job] = location.hash.slice(1).split("=");
if (works.has(kind)) {
  if (kind !== "compare") select($("#tab-identify"));
  if (job) works.get(kind).follow(job).catch((error) => works.get(kind).refuse(explain(error)));
}
