// The page: puts the picture, the tools, the list of classes and the session together.

import * as api from "./api.js";
import { Classes, percent } from "./classes.js";
import { Clock } from "./clock.js";
import { listenToKeys } from "./keys.js";
import { card, toast } from "./messages.js";
import { safeColours } from "./palette.js";
import { listen } from "./pointer.js";
import { UNLABELLED } from "./raster.js";
import { Session, reach } from "./session.js";
import { MOST_SIZE, TOOLS, Tools } from "./tools.js";
import { View } from "./view.js";

const $ = (selector) => document.querySelector(selector);

history.replaceState(null, "", "/"); // the token stays out of sight and out of bookmarks

const clock = new Clock();
const view = new View($("#viewport"));
const tools = new Tools(view, edited);
const hand = listen(view, tools);
let project, classes, session;
let minutes = 0; // that the server knows of

async function start() {
  wire();
  project = await reach(api.project);
  document.title = `${project.name}: label`;
  $("#project").textContent = project.name;
  classes = new Classes(
    $("#classes"),
    $("#search"),
    project.classes.map(({ name }) => name),
    choose,
    accept,
  );
  recolour();
  choose(0);
  report(project);
  await begin(stored("annotator") || (await askName(project.annotator)));
}

/** This person labels from now on. */
async function begin(annotator) {
  store("annotator", annotator);
  $("#annotator").textContent = annotator;
  session = new Session({ project, annotator, view, tools, clock, onAnswer: report, onChange: changed });
  await session.resume();
}

async function rename() {
  const name = await askName(session.annotator);
  if (name !== session.annotator && (await session.end())) await begin(name);
}

// ---------------------------------------------------------------- painting

function edited() {
  session.keepDraft();
  changed();
}

/** Show how much is painted, and what can be done. */
function changed() {
  const region = session?.region;
  for (const name of ["previous", "unsure", "next"]) $(`#${name}`).disabled = !region;
  if (!region) {
    for (const name of ["undo", "redo", "accept", "rest"]) $(`#${name}`).disabled = true;
    for (const name of ["place", "painted", "under"]) $(`#${name}`).textContent = "";
    classes.update([], [], 1);
    return showSaved("");
  }
  const {
    painting,
    guess,
    image,
    box: [top, left, height, width],
  } = region;
  const pixels = painting.label.length;
  const painted = painting.counts();
  const guessed = new Uint32Array(256);
  guess?.forEach((value, index) => {
    if (painting.label[index] === UNLABELLED) guessed[value]++;
  });
  guessed[UNLABELLED] = 0;
  classes.update(painted, guessed, pixels);
  $("#accept").hidden = !guess;
  $("#accept").disabled = !guessed.some((count) => count);
  $("#rest").disabled = !painted[UNLABELLED];
  $("#undo").disabled = !painting.done.length;
  $("#redo").disabled = !painting.undone.length;
  $("#place").textContent = `${image}, ${width} × ${height} pixels at ${left}, ${top}`;
  const share = pixels - painted[UNLABELLED];
  $("#painted").textContent = share ? `${percent(share, pixels)} painted` : "nothing painted yet";
  showSaved(painting.isSaved() ? (share ? "Saved" : "") : "Not saved yet");
}

function undo() {
  if (tools.isFree) redrawn(tools.painting.undo());
}

function redo() {
  if (tools.isFree) redrawn(tools.painting.redo());
}

/** Something changed in a rectangle that is no stroke; null for nothing. */
function redrawn(rect) {
  if (!rect) return;
  view.draw(rect);
  edited();
}

/** An edit of pixels here and there. Says whether it changed anything. */
function edit(change) {
  if (!tools.isFree || !tools.painting.edit(() => change(session.region))) return false;
  view.redraw();
  edited();
  return true;
}

function choose(c) {
  if (!(c < project?.classes.length)) return;
  tools.value = c;
  if (tools.tool === "eraser") useTool("brush");
  classes.choose(c);
  tools.request();
}

/** Take the guess where nothing is painted: of one class, or all of it. */
function accept(c = null) {
  if (c !== null && !(c < project?.classes.length)) return;
  const isRight = (value) => value !== UNLABELLED && (c === null || value === c);
  const hasChanged = edit(({ painting, guess }) =>
    guess?.forEach((value, index) => {
      if (isRight(value)) painting.paint(index, value, true);
    }),
  );
  if (!hasChanged)
    toast(
      c === null ? "No guess is left to accept" : `No guess of ${project.classes[c].name} is left to accept`,
    );
}

function fillRest() {
  edit(({ painting }) => painting.label.forEach((_, index) => painting.paint(index, tools.value, true)));
}

function useTool(tool) {
  tools.lift();
  tools.set({ tool });
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", button.dataset.tool === tool);
  }
  view.viewport.dataset.tool = tool;
}

function showOptions() {
  const isFlood = tools.tool === "fill" && !tools.pieces;
  $("#size-option").hidden = !["brush", "eraser"].includes(tools.tool);
  $("#tolerance-option").hidden = !isFlood;
  // A slider that is being moved shows where it was moved to, which no size of the brush may match exactly.
  if (!$("#size").matches(":active, :focus"))
    $("#size").value = (100 * Math.log(tools.size)) / Math.log(MOST_SIZE);
  $("#size-shown").textContent = `${tools.size} px`;
  $("#tolerance").value = tools.tolerance;
  $("#tolerance-shown").textContent = tools.tolerance;
}

tools.onOptions = showOptions;

/** Say what lies under the pointer. */
tools.onShow = (place) => {
  const { painting } = tools;
  const index = place && painting ? painting.indexAt(place) : null;
  const text = index === null ? "" : nameAt(index);
  if ($("#under").textContent !== text) $("#under").textContent = text;
};

function nameAt(index) {
  const value = tools.painting.label[index];
  const guessed = session.region?.guess?.[index] ?? UNLABELLED;
  const name = (c) => project.classes[c].name;
  if (value !== UNLABELLED) return name(value);
  return guessed !== UNLABELLED ? `unlabelled, guessed: ${name(guessed)}` : "unlabelled";
}

function recolour() {
  const isSafe = $("#safe-colours").checked;
  localStorage.setItem("ralx/safe-colours", isSafe);
  const colours = isSafe ? safeColours(project.classes.length) : project.classes.map(({ colour }) => colour);
  classes.recolour(colours);
  view.restyle({ colours });
}

// ---------------------------------------------------------------- the frame around it

/** How far the batch is, as each answer of the server says. */
function report({ progress }) {
  const { round, asked, labelled, unsure } = progress;
  minutes = progress.minutes;
  $("#round").textContent = round ? `Round ${round}` : "";
  $("#count").textContent = asked
    ? `${labelled} of ${asked} labelled` + (unsure ? `, ${unsure} not sure` : "")
    : "";
  const [first, second] = $("#bar").children;
  first.style.width = `${(100 * labelled) / (asked || 1)}%`;
  second.style.width = `${(100 * unsure) / (asked || 1)}%`;
  $("#bar").setAttribute("aria-valuemax", asked);
  $("#bar").setAttribute("aria-valuenow", labelled + unsure);
  showMinutes();
}

function showMinutes() {
  const worked = minutes + clock.seconds / 60;
  $("#minutes").textContent = `${worked < 10 ? worked.toFixed(1) : Math.round(worked)} min`;
  $("#minutes").classList.toggle("paused", !clock.isRunning);
}

function showSaved(text) {
  $("#saved").textContent = text;
  $("#saved").classList.toggle("open", text === "Not saved yet");
}

async function askName(proposed) {
  const dialog = $("#name-dialog");
  $("#name").value = proposed;
  dialog.showModal();
  $("#name").select();
  dialog.oncancel = (event) => event.preventDefault();
  await new Promise((done) => {
    dialog.onclose = done;
  });
  return $("#name").value.trim() || askName(proposed);
}

const stored = (name) => localStorage.getItem(`ralx/${project.name}/${name}`);
const store = (name, value) => localStorage.setItem(`ralx/${project.name}/${name}`, value);

// ---------------------------------------------------------------- buttons and keys

const leave = (step, options) => session?.leave(step, options);
const clickOn = (selector) => () => $(selector).click();

const KEYS = {
  b: () => useTool("brush"),
  e: () => useTool("eraser"),
  l: () => useTool("lasso"),
  f: () => useTool("fill"),
  "[": () => tools.resize(-1),
  "]": () => tools.resize(1),
  s: stamp,
  z: undo,
  y: redo,
  a: () => accept(),
  r: fillRest,
  o: clickOn("#protect"),
  h: clickOn("#show-labels"),
  g: clickOn("#show-guess"),
  c: clickOn("#safe-colours"),
  u: () => leave(1, { unsure: true }),
  n: () => leave(1),
  Enter: () => leave(1),
  p: () => leave(-1),
  0: () => view.fit(),
  "+": () => view.zoomBy(1.25),
  "=": () => view.zoomBy(1.25),
  "-": () => view.zoomBy(0.8),
  "/": () => $("#search").focus(),
  "?": () => $("#help").showModal(),
};

/** Paint where the brush is. */
function stamp() {
  if (!tools.isFree || !tools.place) return;
  tools.press(tools.place);
  tools.lift();
}

function moveByKey([dx, dy], isFar) {
  if (!tools.isFree) return;
  const { width, height } = tools.painting;
  const { x, y } = tools.place ?? { x: width / 2, y: height / 2 };
  const step = isFar ? 10 : 1;
  const limited = (value, end) => Math.min(end - 0.5, Math.max(0.5, value));
  tools.move([{ x: limited(x + dx * step, width), y: limited(y + dy * step, height) }]);
}

function wire() {
  const on = (selector, act, kind = "click") => $(selector).addEventListener(kind, act);
  for (const tool of TOOLS) on(`[data-tool=${tool}]`, () => useTool(tool));
  on("#undo", undo);
  on("#redo", redo);
  on("#zoom-in", () => view.zoomBy(1.25));
  on("#zoom-out", () => view.zoomBy(0.8));
  on("#fit", () => view.fit());
  on("#accept", () => accept());
  on("#rest", fillRest);
  on("#previous", () => leave(-1));
  on("#unsure", () => leave(1, { unsure: true }));
  on("#next", () => leave(1));
  on("#annotator", () => session && rename());
  on("#help-button", () => $("#help").showModal());
  on("#size", () => tools.set({ size: Math.round(MOST_SIZE ** ($("#size").value / 100)) }), "input");
  on("#tolerance", () => tools.set({ tolerance: Number($("#tolerance").value) }), "input");
  on(
    "#protect",
    () => {
      tools.isProtected = $("#protect").checked;
    },
    "change",
  );
  on("#show-labels", () => view.restyle({ labels: $("#show-labels").checked }), "change");
  on("#show-guess", () => view.restyle({ guess: $("#show-guess").checked }), "change");
  on("#safe-colours", recolour, "change");
  on("#opacity", () => view.restyle({ opacity: $("#opacity").value / 100 }), "input");
  $("#safe-colours").checked = localStorage.getItem("ralx/safe-colours") === "true";
  $("#opacity").value = 100 * view.style.opacity;

  // What was clicked keeps no focus, or the next Enter or Space would press it again.
  document.addEventListener("click", ({ detail, target }) => {
    const isPressed =
      detail && target.closest("nav, aside, footer, #options") && !target.matches("input[type=search]");
    if (isPressed) view.viewport.focus({ preventScroll: true });
  });
  listenToKeys({
    keys: KEYS,
    undo,
    redo,
    arrow: moveByKey,
    space: hand.space,
    digit: (number, isShifted) => (isShifted ? accept(number - 1) : choose(number - 1)),
  });
  addEventListener("pagehide", () => session?.close());
  setInterval(showMinutes, 1000);
  useTool("brush");
}

start().catch(({ message }) => {
  card({ title: "This can’t be done", text: message, buttons: [["Try again", () => location.reload()]] });
});

// For who measures the page.
window.ralx = {
  view,
  tools,
  clock,
  get region() {
    return session?.region;
  },
};
