"""The parts of the stage `report`: what a run is shown by, drawn and written for people."""
