// One episode at a time: `shown` is its line in the list, `content` what its script brought, `tick` where we are.
// Videos tell the time while they play; without a camera a clock of our own does.
"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, className = "", text = "") => {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
};
const SVG = "http://www.w3.org/2000/svg";
const format = (value) => (value === 0 ? "0" : Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(3)));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
let shown = null, content = null, tick = 0, playing = false, before = 0, order = data.episodes;
let plots = []; // functions that move a cursor and tell a value
const videos = () => [...document.querySelectorAll("#videos video")];
const last = () => shown.length - 1;

// ---- the list ----

// Shows one of the thumbnails of an episode: `share` 0 is the first one, 1 the last.
function thumbnail(node, episode, share) {
  if (!episode.strip) return;
  const { file, count, aspect } = episode.strip;
  const place = clamp(Math.round(share * (count - 1)), 0, count - 1);
  node.style.setProperty("--aspect", aspect);
  node.style.backgroundImage = `url("${data.files}/${file}")`;
  node.style.backgroundSize = `${100 * count}% 100%`;
  node.style.backgroundPosition = `${count > 1 ? (100 * place) / (count - 1) : 0}% 0`;
}

const inView = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    thumbnail(entry.target, entry.target.episode, 0.5);
    inView.unobserve(entry.target);
  }
});

function chips(episode) {
  const { errors, warnings, length, jerk, distance } = episode.score;
  const found = [];
  if (errors) found.push(["error", `${errors} error${errors > 1 ? "s" : ""}`]);
  if (warnings) found.push(["warning", `${warnings} warning${warnings > 1 ? "s" : ""}`]);
  for (const [word, value] of [["length", length], ["jerk", jerk], ["way", distance]]) {
    if (value > 3) found.push(["", `unusual ${word}`]);
  }
  return found.map(([kind, text]) => make("span", `chip ${kind}`, text));
}

function list() {
  const key = $("order").value;
  const value = (episode) => (key === "index" ? -episode.index : key === "length" ? episode.length : episode.score[key]);
  order = [...data.episodes].sort((a, b) => value(b) - value(a));
  $("list").replaceChildren(...order.map((episode) => {
    const button = make("button");
    button.type = "button";
    button.id = `episode-${episode.index}`;
    const thumb = make("div", "thumb");
    thumb.episode = episode;
    inView.observe(thumb);
    button.addEventListener("pointermove", (event) => {
      const box = button.getBoundingClientRect();
      thumbnail(thumb, episode, (event.clientX - box.left) / box.width);
    });
    button.addEventListener("pointerleave", () => thumbnail(thumb, episode, 0.5));
    button.addEventListener("click", () => open(episode));
    const line = make("div", "line num");
    line.append(make("b", "", `#${episode.index}`), make("span", "soft", `${(episode.length / data.rate).toFixed(1)} s`), ...chips(episode));
    button.append(thumb, line, make("div", "said", episode.words));
    const item = make("li");
    item.append(button);
    return item;
  }));
  mark();
}

function mark() {
  for (const button of document.querySelectorAll("#list button")) {
    const current = shown !== null && button.id === `episode-${shown.index}`;
    button.setAttribute("aria-current", current);
    if (current) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

// ---- an episode ----

const arrived = new Map(); // number of an episode -> what its script brought
window.showEpisode = (index, what) => {
  arrived.set(index, what);
  if (shown && shown.index === index) draw();
};

function open(episode) {
  pause();
  [shown, content, tick] = [episode, null, 0];
  mark();
  history.replaceState(null, "", `#${episode.index}`);
  if (arrived.has(episode.index)) return draw();
  const script = document.createElement("script");
  script.src = `${data.files}/${episode.file}`;
  script.onerror = () => { $("words").textContent = `${script.src} is missing; make the page again.`; };
  document.head.append(script);
}

function draw() {
  content = arrived.get(shown.index);
  const seed = shown.seed === null ? "" : ` · seed ${shown.seed}`;
  $("which").textContent = `Episode ${shown.index} · ${shown.length} ticks, ${(shown.length / data.rate).toFixed(1)} s${seed}`;
  $("videos").replaceChildren(...Object.entries(content.videos).map(([camera, file]) => {
    const figure = make("figure"), video = make("video");
    Object.assign(video, { src: `${data.files}/${file}`, muted: true, playsInline: true, preload: "auto" });
    video.setAttribute("aria-label", `Camera ${camera}`);
    video.addEventListener("click", toggle);
    video.addEventListener("loadedmetadata", () => { video.currentTime = (tick + 0.5) / data.rate; });
    figure.append(video, make("figcaption", "", camera));
    return figure;
  }));
  $("timeline").setAttribute("aria-valuemax", last());
  const share = (at) => `${(100 * at) / shown.length}%`;
  $("parts").replaceChildren(...content.subtasks.map(([from, text], number, all) => {
    const part = make("span", "", text), to = number + 1 < all.length ? all[number + 1][0] : shown.length;
    Object.assign(part.style, { left: share(from), width: share(to - from) });
    part.title = text;
    return part;
  }));
  const placed = shown.findings.filter((one) => one.ticks);
  $("marks").replaceChildren(...placed.map((one) => {
    const node = make("span", one.severity);
    Object.assign(node.style, { left: share(one.ticks[0]), width: share(one.ticks[1] - one.ticks[0]) });
    return node;
  }));
  $("findings").replaceChildren(...shown.findings.map((one) => finding(one)));
  plots = ["action", "state"].flatMap((feature) => {
    const made = data[feature].map((dimension, number) => plot(feature, dimension, content[feature][number]));
    $(feature).replaceChildren(...made.map(([node]) => node));
    return made.map(([, move]) => move);
  });
  seek(tick);
}

function finding(one) {
  const item = make("li"), where = [one.dimension, one.camera && `camera ${one.camera}`].filter(Boolean).join(", ");
  item.append(make("span", `chip ${one.severity}`, one.check.replaceAll("_", " ")), ` ${where ? `${where}: ` : ""}${one.said} `);
  if (one.ticks) {
    const go = make("button", "num", `tick ${one.ticks[0]}`);
    go.type = "button";
    go.addEventListener("click", () => seek(one.ticks[0]));
    item.append(go, " ");
  }
  item.append(make("span", "soft", one.advice));
  return item;
}

// A small plot; its range is that of the whole data set. Returns its node, and what moves its cursor.
function plot(feature, dimension, values) {
  const node = make("div", "plot"), title = make("div", "title"), field = make("div", "field"), cursor = make("i"), told = make("span", "num");
  title.append(make("span", "", dimension.name + (dimension.unit ? ` (${dimension.unit})` : "")), told);
  const svg = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "polyline");
  const wide = Math.max(values.length - 1, 1), span = dimension.high - dimension.low || 1;
  svg.setAttribute("viewBox", `0 0 ${wide} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${feature} ${dimension.name}`);
  for (const one of shown.findings) {
    if (!one.ticks || one.dimension !== `${feature} ${dimension.name}`) continue;
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("class", `found ${one.severity}`);
    const from = Math.max(one.ticks[0] - 0.5, 0), to = Math.min(one.ticks[1] - 0.5, wide);
    for (const [name, value] of Object.entries({ x: from, width: Math.max(to - from, wide / 150), y: 0, height: 100 })) rect.setAttribute(name, value);
    svg.append(rect);
  }
  line.setAttribute("points", values.map((value, at) => `${at},${(94 - (88 * (value - dimension.low)) / span).toFixed(2)}`).join(" "));
  svg.append(line);
  field.append(svg, cursor, make("span", "end high num", format(dimension.high)), make("span", "end low num", format(dimension.low)));
  drag(field, (share) => seek(Math.round(share * wide)));
  node.append(title, field);
  return [node, () => {
    cursor.style.left = `${(100 * tick) / wide}%`;
    told.textContent = format(Math.abs(values[tick]) < 1e-6 * span ? 0 : values[tick]); // no 1e-16
  }];
}

// Calls `at` with 0 to 1 for presses and drags along a node.
function drag(node, at) {
  const tell = (event) => {
    const box = node.getBoundingClientRect();
    at(clamp((event.clientX - box.left) / box.width, 0, 1));
  };
  node.addEventListener("pointerdown", (event) => { node.setPointerCapture(event.pointerId); tell(event); });
  node.addEventListener("pointermove", (event) => { if (event.buttons) tell(event); });
}

// ---- time ----

function text(stretches) {
  let found = "";
  for (const [from, words] of stretches) if (from <= tick) found = words;
  return found;
}

function tell() {
  $("words").textContent = text(content.words) || "(no instruction)";
  $("subtask").textContent = text(content.subtasks);
  $("cursor").style.left = `${(100 * (tick + 0.5)) / shown.length}%`;
  $("clock").textContent = `${(tick / data.rate).toFixed(2)} s · tick ${tick} of ${last()}`;
  $("timeline").setAttribute("aria-valuenow", tick);
  for (const move of plots) move();
}

function seek(to) {
  if (!content) return;
  tick = clamp(to, 0, last());
  for (const video of videos()) video.currentTime = (tick + 0.5) / data.rate;
  before = performance.now() - (1000 * tick) / data.rate / speed();
  tell();
}

const speed = () => Number($("speed").value);

function pause() {
  playing = false;
  videos().forEach((video) => video.pause());
  $("play").className = "";
  $("play").setAttribute("aria-label", "Play");
}

function toggle() {
  if (!content) return;
  if (playing) return pause();
  if (tick >= last()) seek(0);
  playing = true;
  $("play").className = "on";
  $("play").setAttribute("aria-label", "Pause");
  before = performance.now() - (1000 * tick) / data.rate / speed();
  for (const video of videos()) {
    video.playbackRate = speed();
    video.play().catch(() => {}); // one that cannot play stands still, the others go on
  }
  requestAnimationFrame(step);
}

function step(now) {
  if (!playing) return;
  const [leader, ...others] = videos().filter((video) => !video.error);
  const seconds = leader ? leader.currentTime : ((now - before) / 1000) * speed();
  for (const video of others) {
    if (Math.abs(video.currentTime - seconds) > 1 / data.rate) video.currentTime = seconds;
  }
  const at = clamp(Math.floor(seconds * data.rate + 1e-3), 0, last());
  if (at !== tick) { tick = at; tell(); }
  if (leader ? leader.ended : seconds * data.rate >= shown.length) return pause();
  requestAnimationFrame(step);
}

function neighbor(by) {
  const place = order.indexOf(shown) + by;
  if (place >= 0 && place < order.length) open(order[place]);
}

const KEYS = {
  " ": toggle, ArrowUp: () => neighbor(-1), ArrowDown: () => neighbor(1), Home: () => seek(0), End: () => seek(last()),
  ArrowLeft: (event) => seek(tick - (event.shiftKey ? Math.round(data.rate) : 1)),
  ArrowRight: (event) => seek(tick + (event.shiftKey ? Math.round(data.rate) : 1)),
};
document.addEventListener("keydown", (event) => {
  if (event.target.matches("select, input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.matches("button")) return; // the button's own
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  if (event.key !== " ") pause();
  act(event);
});

$("play").addEventListener("click", toggle);
$("speed").addEventListener("change", () => { if (playing) { pause(); toggle(); } });
$("order").addEventListener("change", list);
drag($("timeline"), (share) => { pause(); seek(Math.min(Math.floor(share * shown.length), last())); });
$("timeline").addEventListener("pointermove", (event) => {
  const box = $("timeline").getBoundingClientRect(), share = clamp((event.clientX - box.left) / box.width, 0, 1);
  $("preview").hidden = !shown.strip;
  $("preview").style.left = `${100 * share}%`;
  thumbnail($("preview"), shown, share);
});
$("timeline").addEventListener("pointerleave", () => { $("preview").hidden = true; });

$("name").textContent = data.name;
const part = data.episodes.length < data.total ? `${data.episodes.length} of ${data.total.toLocaleString()}` : `${data.total}`;
$("facts").textContent = `${data.body} · ${part} episodes · ${data.ticks.toLocaleString()} ticks at ${data.rate} Hz`;
$("general").replaceChildren(...data.findings.map((one) => finding(one)));
list();
const wanted = data.episodes.find((episode) => `#${episode.index}` === location.hash) || order[0];
open(wanted);
