// What is painted and not saved yet, kept in this browser until the server has it.

import { fromRuns, toRuns } from "./raster.js";

export class Drafts {
  constructor(project, annotator) {
    this.prefix = `ralx/${project}/${annotator}/draft/`;
  }

  /** Says whether the browser had room. */
  keep(id, label, etag, seconds) {
    try {
      localStorage.setItem(this.prefix + id, JSON.stringify({ label: toRuns(label), etag, seconds }));
      return true;
    } catch {
      return false;
    }
  }

  /** {label, etag, seconds}, or null. */
  of(id, length) {
    const text = localStorage.getItem(this.prefix + id);
    if (text === null) return null;
    try {
      const draft = JSON.parse(text), label = fromRuns(draft.label, length);
      return label && { ...draft, label };
    } catch {
      return null;
    }
  }

  drop(id) {
    localStorage.removeItem(this.prefix + id);
  }

  ids() {
    return Object.keys(localStorage).filter((key) => key.startsWith(this.prefix))
      .map((key) => key.slice(this.prefix.length));
  }
}
