// topostream, Apache-2.0. Built from stream/client/js/src by build.mjs: change that, not this.
