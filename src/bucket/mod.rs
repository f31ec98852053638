//! The S3 API: buckets' notification configuration.
