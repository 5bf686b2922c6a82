// One person at work on a project: which region is shown, saving it, going on. Nothing that is painted is lost
// while the server is away, and nothing is written over what somebody else saved.

import * as api from "./api.js";
import { Drafts } from "./drafts.js";
import { banner, card, closeCard, isCardOpen, showLines, toast } from "./messages.js";
import { Painting } from "./painting.js";
import { Pieces, UNLABELLED } from "./raster.js";
import { Tabs } from "./tabs.js";

const RENEW = 60_000; // milliseconds between two renewals of a lease
const RETRY = 1500; // milliseconds between two tries to reach the server
const LOOK_AGAIN = 1000; // milliseconds between two looks whether there is a region again
const wait = (milliseconds) =>
  new Promise((done) => {
    setTimeout(done, milliseconds);
  });

export class Session {
  /** `onAnswer`: told each answer of the server; `onChange`: the region or what is painted of it changed. */
  constructor({ project, annotator, view, tools, clock, onAnswer, onChange }) {
    Object.assign(this, { project, annotator, view, tools, clock, onAnswer, onChange });
    this.region = null; // {id, round, image, box, state, etag, guess, painting}
    this.isMoving = false; // between two regions
    this.isMine = true; // no other tab has taken over
    this.drafts = new Drafts(project.name, annotator);
    this.tabs = new Tabs(project.name, annotator, () => this.yieldToAnotherTab());
    this.key = `ralx/${project.name}/${annotator}/visited`;
    // The regions that this tab has shown, and which of them it shows.
    this.visited = JSON.parse(sessionStorage.getItem(this.key)) || { ids: [], at: -1 };
    this.renewal = setInterval(() => this.renew(), 5000);
  }

  /** Where this person was, what they have not saved yet, or what is asked next. */
  async resume() {
    this.isMine = true;
    this.clock.isStopped = false;
    this.tabs.claim();
    closeCard();
    await this.moving(async () => {
      const here = this.visited.ids[this.visited.at];
      for (const id of new Set([...(here ? [here] : []), ...this.drafts.ids()])) {
        if (await this.reopen(id)) return;
      }
      await this.takeNext();
    });
  }

  /** Save, then on to the next region (`step` 1) or back to the one before (-1). */
  async leave(step, { unsure = false } = {}) {
    if (!this.region || this.isMoving || isCardOpen()) return;
    if (step > 0 && !unsure && this.region.painting.isEmpty()) {
      return toast("Nothing is painted here yet. Paint, accept the guess (A), or say Not sure (U)");
    }
    const { ids, at } = this.visited;
    if (step < 0 && at === 0) return toast("This is the first region that this tab has shown");
    await this.moving(async () => {
      if (!(await this.save(unsure))) return;
      this.tools.isLocked = true; // what is painted now would be painted on the region that was just saved
      for (let i = at + step; i >= 0 && i < ids.length; i += step) {
        if (await this.reopen(ids[i])) return;
      }
      if (step > 0) await this.takeNext();
      else toast("Somebody else has the regions before this one");
    });
  }

  /** Somebody else sits down here: save, and let go. Says whether that was possible. */
  async end() {
    if (this.isMoving || (this.region && !(await this.save(false)))) return false;
    if (this.region) api.release(this.region.id, this.annotator);
    clearInterval(this.renewal);
    this.tabs.close();
    return true;
  }

  /** The tab closes. An unpainted region is free at once; a painted one stays this person's for a while. */
  close() {
    if (!this.isMine || !this.region) return;
    this.tools.lift();
    if (this.region.painting.isSaved()) api.release(this.region.id, this.annotator);
  }

  /** Keep what is painted in this browser until the server has it. */
  keepDraft() {
    const { region, clock } = this;
    clock.tick();
    if (region.painting.isSaved()) this.drafts.drop(region.id);
    else if (!this.drafts.keep(region, clock.seconds)) {
      banner("This browser has no room to keep unsaved strokes. Save often.");
    }
  }

  // -------------------------------------------------------------- regions

  /** Show a region that this browser had before; false where it can't be had. */
  async reopen(id) {
    try {
      const answer = await this.reach(() => api.open(id, this.annotator));
      if (!this.visited.ids.includes(id)) this.visited.ids.push(id);
      this.visited.at = this.visited.ids.indexOf(id);
      await this.show(answer.region);
      return true;
    } catch (error) {
      if (!(error instanceof api.Refused)) throw error;
      if (api.isUnknown(error)) this.drafts.drop(id);
      return false;
    }
  }

  async takeNext() {
    const answer = await this.reach(() => api.next(this.annotator));
    const { visited } = this;
    if (!answer.region) return this.showNothing(answer);
    const { id, round } = answer.region;
    if (this.round && round !== this.round) toast(`Round ${round}: ${answer.progress.asked} new regions`);
    visited.ids = visited.ids.filter((other) => other !== id);
    visited.at = visited.ids.push(id) - 1;
    await this.show(answer.region);
  }

  async show(asked) {
    const { view, tools } = this;
    const [top, left, height, width] = asked.box;
    const [cropTop, cropLeft] = asked.crop_box;
    const [photo, label, guess] = await this.reach(() =>
      Promise.all([api.crop(asked.id), api.label(asked.id), api.guess(asked.id)]),
    );
    const saved = label.content
      ? new Uint8Array(label.content)
      : new Uint8Array(width * height).fill(UNLABELLED);
    const painting = new Painting(width, height, saved);
    this.region = {
      ...asked,
      painting,
      etag: label.etag,
      guess: guess && new Uint8Array(guess),
      renewedAt: performance.now(),
    };
    this.round = asked.round;
    this.clock.take();
    this.restoreDraft();
    tools.set({ pieces: null });
    view.show(
      photo,
      { top: top - cropTop, left: left - cropLeft, height, width },
      painting,
      this.region.guess,
    );
    tools.request();
    closeCard();
    sessionStorage.setItem(this.key, JSON.stringify(this.visited));
    this.onChange();
    this.fetchPieces(this.region);
  }

  async fetchPieces(region) {
    try {
      const superpixels = await api.superpixels(region.id);
      if (this.region === region && superpixels)
        this.tools.set({ pieces: new Pieces(new Uint16Array(superpixels)) });
    } catch (error) {
      console.warn(`no superpixels, so fill goes by colour: ${error.message}`);
    }
  }

  restoreDraft() {
    const { id, painting, etag } = this.region;
    const draft = this.drafts.of(this.region);
    if (!draft) return;
    this.clock.seconds += draft.seconds;
    painting.edit(() => draft.label.forEach((value, index) => painting.paint(index, value)));
    if (draft.etag === etag) {
      toast("What you painted and had not saved yet is back");
    } else {
      painting.undo();
      this.drafts.drop(id);
      toast("This region was saved elsewhere since. Redo shows what you had painted");
    }
  }

  /** Says whether the server has what is painted. It is tried until the server answers. */
  async save(unsure) {
    this.tools.lift();
    const { region, annotator } = this;
    const { painting, id } = region;
    if (!unsure && (painting.isEmpty() || painting.isSaved())) {
      if (region.state !== "asked" && painting.isSaved()) api.release(id, annotator);
      return true;
    }
    const seconds = this.clock.take();
    const label = painting.label.slice();
    try {
      const { etag } = await this.reach(() =>
        api.save(id, annotator, { label, etag: region.etag, seconds, unsure }),
      );
      Object.assign(region, { etag, state: "labelled" });
      painting.saved = label;
      this.drafts.drop(id);
      this.onChange();
      return painting.isSaved() || (await this.save(false)); // who waits for the server may have painted on
    } catch (error) {
      this.clock.seconds += seconds;
      if (!(error instanceof api.Refused)) throw error;
      this.sayRefused(error);
      return false;
    }
  }

  /** Keep the lease while somebody works. */
  async renew() {
    const { region } = this;
    if (!region || this.isMoving || !this.clock.isRunning || performance.now() - region.renewedAt < RENEW)
      return;
    region.renewedAt = performance.now();
    try {
      this.onAnswer(await api.open(region.id, this.annotator));
      banner(null);
    } catch (error) {
      if (error instanceof api.Unreachable)
        banner("The server does not answer. What you paint is kept in this browser.");
      else if (this.region === region && !isCardOpen()) this.sayRefused(error);
    }
  }

  yieldToAnotherTab() {
    if (!this.isMine) return;
    this.tools.lift();
    this.isMine = false;
    this.clock.isStopped = true;
    this.hide();
    card({
      title: "This page is open in another tab",
      text: "It goes on there, with what you painted here. Only one tab at a time can paint.",
      buttons: [["Go on in this tab", () => this.resume()]],
    });
  }

  hide() {
    this.region = null;
    this.view.hide();
    this.onChange();
  }

  // -------------------------------------------------------------- the server

  /** One move at a time. What the server refuses on the way is said. */
  async moving(move) {
    if (this.isMoving) return;
    this.isMoving = true;
    document.body.classList.add("moving");
    try {
      await move();
    } catch (error) {
      if (!(error instanceof api.Refused)) throw error;
      this.sayRefused(error);
    } finally {
      this.isMoving = this.tools.isLocked = false;
      document.body.classList.remove("moving");
    }
  }

  /** What `request` gives, tried again for as long as the server is away. */
  async reach(request) {
    const answer = await reach(request);
    if (answer.progress) this.onAnswer(answer);
    return answer;
  }

  sayRefused(error) {
    const { region } = this;
    const another = [
      "Go on with another region",
      () => {
        this.drafts.drop(region.id);
        this.moving(() => this.takeNext());
      },
    ];
    if (region && api.isTaken(error)) {
      card({
        title: "Somebody else has this region now",
        text:
          "Nothing happened here for a while, so it was given to another person. Their label stays as it is; " +
          "what you painted here was not saved.",
        buttons: [another],
      });
    } else if (region && api.isChanged(error)) {
      card({
        title: "This region was saved elsewhere",
        text:
          "A label of it came in since this page opened it: from another window, another person or a file. " +
          "Nothing was overwritten.",
        buttons: [["Show what was saved", () => this.moving(() => this.reopen(region.id))], another],
      });
    } else {
      card({
        title: "This can’t be done",
        text: error.message,
        buttons: [[region ? "Back" : "Try again", () => (region ? closeCard() : this.resume())]],
      });
    }
  }

  /** No region can be had: say why, and look again. */
  showNothing(answer) {
    this.hide();
    const { left, round, asked, labelled } = answer.progress;
    const { state, lines, can_start: canStart } = answer.job;
    const last = this.visited.ids.at(-1);
    const back = last ? [["Back to the last region", () => this.moving(() => this.reopen(last))]] : [];
    const again = [
      "Train and ask again",
      () => this.moving(async () => this.showNothing(await this.reach(api.startBatch))),
    ];
    const done = asked ? `Round ${round} is done: ${labelled} of ${asked} regions have labels. ` : "";
    if (left > 0) {
      card({
        title: "The rest of this batch is with somebody else",
        text: `${left} ${left === 1 ? "region is" : "regions are"} being painted by others. This page goes on by itself.`,
        buttons: back,
      });
    } else if (state === "running") {
      card({
        title: "This batch is done",
        text: `${done}The model now trains on them and chooses the next regions. This page goes on by itself.`,
        lines: lines.length ? lines : ["starting …"],
        buttons: back,
      });
    } else if (state === "failed") {
      card({
        title: "Training or asking failed",
        text: "All labels are saved. The last lines say what went wrong:",
        lines,
        buttons: [again, ...back],
      });
    } else {
      card({
        title: asked ? "This batch is done" : "Nothing is asked for yet",
        text:
          done +
          (canStart
            ? "Train the model and let it choose the next regions."
            : "As soon as more is asked for, this page goes on by itself."),
        buttons: canStart ? [again, ...back] : back,
      });
    }
    this.lookAgain(state);
  }

  lookAgain(stateBefore) {
    clearTimeout(this.look);
    this.look = setTimeout(async () => {
      const isWanted = () => !this.region && this.isMine && !this.isMoving;
      if (!isWanted()) return;
      try {
        const { progress, job } = await this.reach(api.situation);
        if (!isWanted()) return;
        if (job.state === "running" && job.lines.length) showLines(job.lines);
        if (progress.left > 0 || job.state !== stateBefore) await this.moving(() => this.takeNext());
        else this.lookAgain(stateBefore);
      } catch (error) {
        if (!(error instanceof api.Refused)) throw error;
        this.sayRefused(error);
      }
    }, LOOK_AGAIN);
  }
}

/** What `request` gives, tried again for as long as the server is away. */
export async function reach(request) {
  for (;;) {
    try {
      const answer = await request();
      banner(null);
      return answer;
    } catch (error) {
      if (error instanceof api.Unreachable) {
        banner(
          "The server does not answer. Paint on: it is kept in this browser and saved once the server is back.",
        );
      } else if (api.isStranger(error)) {
        banner(
          "The server was started anew: open the address that it printed. What you painted is kept in this browser.",
        );
      } else {
        throw error;
      }
      await wait(RETRY);
    }
  }
}
