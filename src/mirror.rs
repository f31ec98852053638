//! Polls the revision in MySQL and keeps the local copy of the relations in step.
