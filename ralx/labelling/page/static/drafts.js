// What is painted and not saved yet, kept in this browser until the server has it.

import { fromRuns, toRuns } from "./raster.js";

const placeOf = ({ image, box }) => `${image} ${box}`;

export class Drafts {
  constructor(project, annotator) {
    this.prefix = `ralx/${project}/${annotator}/draft/`;
  }

  /** Says whether the browser had room. */
  keep(region, seconds) {
    const { id, etag, painting } = region;
    const draft = { label: toRuns(painting.label), place: placeOf(region), etag, seconds };
    try {
      localStorage.setItem(this.prefix + id, JSON.stringify(draft));
      return true;
    } catch {
      return false;
    }
  }

  /** {label, etag, seconds}, or null. */
  of(region) {
    const draft = JSON.parse(localStorage.getItem(this.prefix + region.id));
    if (draft?.place !== placeOf(region)) return null; // none, or one of another project of this name
    return { ...draft, label: fromRuns(draft.label, region.painting.label.length) };
  }

  drop(id) {
    localStorage.removeItem(this.prefix + id);
  }

  ids() {
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(this.prefix))
      .map((key) => key.slice(this.prefix.length));
  }
}
