// topostream, Apache-2.0; from stream/client/js/src

