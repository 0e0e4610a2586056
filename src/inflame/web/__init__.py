"""The website: pictures in, honest answers out. HTTP, pages and a chatbot over bundles, without torch and offline."""
