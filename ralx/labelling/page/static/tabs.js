// One tab of one person at a time: the one that was opened last, so that two tabs never paint one region.

export class Tabs {
  /** `onLost`: another tab of this browser has taken over. */
  constructor(project, annotator, onLost) {
    this.channel = new BroadcastChannel(`ralx/${project}/${annotator}`);
    this.channel.onmessage = onLost;
  }

  claim() {
    this.channel.postMessage("mine");
  }

  close() {
    this.channel.close();
  }
}
