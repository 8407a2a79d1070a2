// topostream, Apache-2.0

